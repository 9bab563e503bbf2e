"""The engine on a CUDA device: against transformers with the same weights, and to the bit against itself.

Run by hand on a machine with a GPU: ``pytest tests/gpu -m gpu``.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_workloads import SHAPES, write_model
from benchmarks.invariance import Case, Outcome, SharedWeights, Work, cases, differences, requests, unmet
from engine import LLM, SamplingParams
from engine.model.checkpoint import Checkpoint

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


def prompts(count: int, longest: int) -> list[list[int]]:
    draw = random.Random(3)
    return [[draw.randrange(10, 32000) for _ in range(draw.randint(2, longest))] for _ in range(count)]


def test_logits_against_float32(model: Path) -> None:
    """The bf16 model's log-probabilities are as near to transformers' in float32 as transformers' own bf16 ones."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = json.loads((model / "config.json").read_text())
    device = torch.device("cuda")
    work = prompts(4, 200)
    distances = {}
    reference: list[torch.Tensor] = []
    for dtype in (torch.float32, torch.bfloat16):
        hf = LlamaForCausalLM(LlamaConfig(**config)).to(device, dtype)
        checkpoint = Checkpoint(None, torch.bfloat16, device)
        hf.load_state_dict({n: checkpoint.take(n, *p.shape).to(dtype) for n, p in hf.named_parameters()}, strict=False)
        with torch.inference_mode():
            values = [hf(torch.tensor([ids], device=device)).logits[0].float().log_softmax(-1) for ids in work]
        if dtype is torch.float32:
            reference = values
        else:
            distances["transformers"] = max((a - b).abs().mean().item() for a, b in zip(values, reference, strict=True))
        del hf
    scored = LLM(str(model), load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=512)
    with scored as llm:
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        outputs = llm.generate(work, params, use_tqdm=False)
    ours, theirs = [], []
    for output, ids, values in zip(outputs, work, reference, strict=True):
        for position in range(1, len(ids)):
            ours.append(output.prompt_logprobs[position][ids[position]].logprob)  # type: ignore[index]
            theirs.append(values[position - 1, ids[position]].item())
    distance = (torch.tensor(ours) - torch.tensor(theirs)).abs().mean().item()
    print(f"mean distance to float32: ours {distance:.4f}, transformers bf16 {distances['transformers']:.4f}")
    assert distance < 1.5 * distances["transformers"]
