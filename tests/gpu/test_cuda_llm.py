"""LLM and AsyncLLM on a CUDA device: what happens around the steps must not change a bit of what they give.

Run by hand on a machine with a GPU: ``pytest tests/gpu -m gpu``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from benchmarks.correctness import random_prompts
from benchmarks.gpu_workloads import write_model
from engine import LLM, AsyncLLM, SamplingParams
from engine.outputs import RequestOutput

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ARGS: dict[str, Any] = {"load_format": "dummy", "skip_tokenizer_init": True, "dtype": "bfloat16", "max_model_len": 512}
PROMPTS = [{"prompt_token_ids": ids} for ids in random_prompts(40, 130)]
PARAMS = [SamplingParams(seed=i, max_tokens=8 + i, ignore_eos=True) for i in range(len(PROMPTS))]

Tokens = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("llama1b", tmp_path_factory.mktemp("models"), num_hidden_layers=4)


@pytest.fixture
def llm(model: Path) -> Iterator[LLM]:
    with LLM(str(model), **ARGS) as llm:
        yield llm


def tokens(llm: LLM) -> Tokens:
    outputs = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    assert not any(output.error for output in outputs)
    return [tuple(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize("level", [1, 2])
def test_after_sleep_tokens_are_the_same_and_graphs_are_captured_anew(llm: LLM, level: int) -> None:
    before = tokens(llm)
    awake = torch.cuda.memory_reserved()
    llm.sleep(level)
    assert torch.cuda.memory_reserved() < awake / 2
    assert llm.wake_up()
    assert tokens(llm) == before
    assert tokens(llm) == before  # by the graphs that the first time captured


def test_eager_steps_of_other_sizes_compile_nothing_anew(
    llm: LLM, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tokens(llm)
    llm.close()
    with LLM(str(model), enforce_eager=True, **ARGS) as eager:
        assert tokens(eager) == expected
        compiled: list[str] = []
        monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda *, repr, **_: compiled.append(repr))
        eager.generate(PROMPTS[:37], [SamplingParams(max_tokens=5 + i, ignore_eos=True) for i in range(37)])
        assert compiled == []


async def streamed(engine: AsyncLLM, number: int) -> tuple[int, ...]:
    limits = {"max_tokens": PARAMS[number].max_tokens, "ignore_eos": True}
    params = SamplingParams(seed=number, output_kind="delta", **limits)
    found: list[int] = []
    async for output in engine.generate(PROMPTS[number], params, str(number)):
        assert isinstance(output, RequestOutput)
        found += output.outputs[0].token_ids
    return tuple(found)


def test_async_streams_give_what_generate_gives(llm: LLM, model: Path) -> None:
    """Its steps, and so the captures of its graphs, run in a thread of its own."""
    expected = tokens(llm)
    llm.close()

    async def all_streams() -> Tokens:
        engine = AsyncLLM(str(model), **ARGS)
        try:
            for _ in range(2):  # the second time by graphs that are captured already
                found = list(await asyncio.gather(*(streamed(engine, number) for number in range(len(PROMPTS)))))
            return found
        finally:
            engine.shutdown()

    assert asyncio.run(all_streams()) == expected


def test_streams_that_end_early_leave_the_others_alone(llm: LLM, model: Path) -> None:
    expected = tokens(llm)
    llm.close()

    async def left(engine: AsyncLLM, number: int) -> None:
        async for _ in engine.generate(PROMPTS[number], PARAMS[number], f"left {number}"):
            break

    async def some_streams() -> Tokens:
        engine = AsyncLLM(str(model), **ARGS)
        try:
            kept = [streamed(engine, number) for number in range(0, len(PROMPTS), 2)]
            found = await asyncio.gather(*kept, *(left(engine, number) for number in range(1, len(PROMPTS), 2)))
            return [one for one in found if one is not None]
        finally:
            engine.shutdown()

    assert asyncio.run(some_streams()) == expected[::2]
