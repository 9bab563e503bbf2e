"""The engine on a CUDA device: against transformers with the same weights, and to the bit against itself.

Run by hand on a machine with a GPU: ``pytest tests/gpu -m gpu``.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_workloads import SHAPES, write_model
from engine import LLM, SamplingParams
from engine.model.checkpoint import Checkpoint
from engine.model.spec import DecoderSpec, read_spec

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LAYERS = 4
Result = list[tuple[tuple[int, ...], tuple[float, ...]]]


@pytest.fixture(scope="module", params=sorted(SHAPES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of a model's shape, with random weights at a trained model's scale."""
    return write_model(request.param, tmp_path_factory.mktemp("models"), num_hidden_layers=LAYERS)


def prompts(count: int, longest: int = 600) -> list[list[int]]:
    draw = random.Random(3)
    shared = [draw.randrange(10, 32000) for _ in range(100)]
    return [
        (shared if i % 3 == 0 else []) + [draw.randrange(10, 32000) for _ in range(draw.randint(1, longest))]
        for i in range(count)
    ]


def run(model: Path, work: list[list[int]], params: list[SamplingParams], **arguments: Any) -> Result:
    options = {"dtype": "bfloat16", "max_model_len": 1024, "kv_cache_memory_bytes": 1 << 30} | arguments
    with LLM(str(model), load_format="dummy", skip_tokenizer_init=True, **options) as llm:
        outputs = llm.generate(work, params, use_tqdm=False)
        if "kv_cache_memory_bytes" in arguments:
            assert llm.stats().preemptions > 0
    return [
        (
            tuple(o.outputs[0].token_ids),
            tuple(
                step[token].logprob
                for step, token in zip(o.outputs[0].logprobs or (), o.outputs[0].token_ids, strict=False)
            ),
        )
        for o in outputs
    ]


def mixed_params(count: int) -> list[SamplingParams]:
    """Greedy and sampled requests, with and without log-probabilities."""
    kinds = [
        {"temperature": 0.0}, {"temperature": 0.0, "logprobs": 0}, {"temperature": 0.8, "top_p": 0.9, "logprobs": 0},
        {"temperature": 1.0, "top_k": 40}, {"temperature": 0.7},
    ]  # fmt: skip
    return [SamplingParams(max_tokens=24, ignore_eos=True, seed=i, **kinds[i % len(kinds)]) for i in range(count)]


@pytest.fixture(scope="module")
def expected(model: Path) -> Result:
    """All requests in large batches, with the defaults."""
    return run(model, prompts(96), mixed_params(96))


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_num_seqs": 1},
        {"max_num_seqs": 3},
        {"max_num_seqs": 16},
        {"max_num_batched_tokens": 64},
        {"max_num_batched_tokens": 500},
        {"enable_prefix_caching": False},
        {"enforce_eager": True},
    ],
    ids=str,
)
def test_tokens_and_logprobs_are_equal_to_the_bit(model: Path, expected: Result, arguments: dict[str, Any]) -> None:
    assert run(model, prompts(96), mixed_params(96), **arguments) == expected


def test_order_and_preemption_change_nothing(model: Path, expected: Result) -> None:
    spec = read_spec(json.loads((model / "config.json").read_text()))
    assert isinstance(spec, DecoderSpec)
    order = random.Random(1).sample(range(96), 96)
    work, params = prompts(96), mixed_params(96)
    tiny = 1500 * 2 * spec.kv_heads * spec.head_dim * 2 * LAYERS
    got = run(
        model,
        [work[i] for i in order],
        [params[i] for i in order],
        kv_cache_memory_bytes=tiny,
        enable_admission_control=False,
    )
    assert got == [expected[i] for i in order]


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
