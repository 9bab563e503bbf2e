"""The engine on a CUDA device: against transformers with the same weights, and to the bit against itself.

Run by hand on a machine with a GPU: ``pytest tests/gpu -m gpu``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.correctness import distances, engine_scores, random_prompts
from benchmarks.gpu_workloads import SHAPES, write_model
from benchmarks.invariance import Case, Outcome, SharedWeights, Work, cases, differences, requests, unmet
from benchmarks.reference import random_tensors
from engine import LLM, SamplingParams

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LAYERS = 4
LENGTH = 2048


@pytest.fixture(scope="module", params=sorted(SHAPES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of a model's shape, with random weights at a trained model's scale."""
    return write_model(request.param, tmp_path_factory.mktemp("models"), num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def weights(model: Path) -> SharedWeights:
    return SharedWeights(str(model), dtype="bfloat16", max_model_len=LENGTH, kv_cache_memory_bytes=4 << 30)


@pytest.fixture(scope="module")
def work() -> list[Work]:
    return requests(96, longest=700, shortest_output=16)


@pytest.fixture(scope="module")
def expected(weights: SharedWeights, work: list[Work]) -> Outcome:
    """All requests together, with the defaults."""
    return weights.run(work, Case("reference"))


@pytest.mark.parametrize("case", cases(LENGTH), ids=lambda case: case.name)
def test_equal_to_the_bit(weights: SharedWeights, work: list[Work], expected: Outcome, case: Case) -> None:
    """At full depth: ``benchmarks/gpu_invariance.py``."""
    got = weights.run(work, case)
    found = differences(got, expected, case)
    assert (found["tokens_differ"], found["logprobs_differ"]) == (0, 0)
    assert unmet(got, case) is None


def test_logits_against_float32(model: Path) -> None:
    """As near to transformers' float32 as transformers' own bf16; at full depth: ``benchmarks/gpu_correctness.py``."""
    with LLM(str(model), load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=512) as llm:
        scored = engine_scores(llm, random_prompts(6, 300), 16)
    config = json.loads((model / "config.json").read_text())
    device = torch.device("cuda")
    for part, values in distances(config, random_tensors(device), scored, device).items():
        assert values["engine_mean"] < 1.5 * values["transformers_bf16_mean"], (part, values)


@pytest.mark.parametrize("seats", [256, 6])
def test_completions_are_those_of_their_seeds(model: Path, seats: int) -> None:
    """Forked beside a captured step or started late, behind copied blocks: each as a request of its own."""
    prompts = [{"prompt_token_ids": ids} for ids in random_prompts(12, 130)]
    args = {"skip_tokenizer_init": True, "dtype": "bfloat16", "max_model_len": 512, "enable_prefix_caching": False}
    with LLM(str(model), load_format="dummy", max_num_seqs=seats, **args) as llm:  # type: ignore[arg-type]
        params = [SamplingParams(n=4, seed=100 * i, max_tokens=24, logprobs=0, ignore_eos=True) for i in range(12)]
        together = llm.generate(prompts, params, use_tqdm=False)
        computed = llm.stats().computed_tokens
        apart = llm.generate(
            [prompt for prompt in prompts for _ in range(4)],
            [
                SamplingParams(seed=100 * i + child, max_tokens=24, logprobs=0, ignore_eos=True)
                for i in range(12)
                for child in range(4)
            ],
            use_tqdm=False,
        )
    found = [(one.token_ids, one.cumulative_logprob) for output in together for one in output.outputs]
    assert found == [(output.outputs[0].token_ids, output.outputs[0].cumulative_logprob) for output in apart]
    assert len({tuple(tokens) for tokens, _ in found}) == 48
    assert computed <= sum(len(prompt["prompt_token_ids"]) for prompt in prompts) + 48 * 24
