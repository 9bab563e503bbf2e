"""Prompts that are embeddings: those of a prompt's tokens give what the tokens give."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine import LLM, AsyncLLM, SamplingParams
from engine.outputs import RequestOutput
from engine.params import BeamSearchParams
from tests.engine.ask import greedy, outputs
from tests.engine.conftest import SMOLLM

TEXTS = ["The capital of France is", "One, two, three,", "a a a a a a a a", "Water boils at a temperature of"]
ARGS: dict[str, Any] = {"dtype": "float32", "max_model_len": 256, "enable_prompt_embeds": True}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(SMOLLM, **ARGS) as llm:
        yield llm


@pytest.fixture(scope="module")
def ids(llm: LLM) -> list[list[int]]:
    return [llm.get_tokenizer().encode(text * 5) for text in TEXTS]


@pytest.fixture(scope="module")
def embeds(llm: LLM, ids: list[list[int]]) -> list[torch.Tensor]:
    core: Any = llm._engine.core  # type: ignore[union-attr]
    return [core.runner.model.embedding[each] for each in ids]


def seen(found: list[RequestOutput]) -> list[Any]:
    assert [one.error for one in found] == [None] * len(found)
    return [[(c.token_ids, c.text, c.finish_reason, c.logprobs) for c in one.outputs] for one in found]


def given(embeds: list[torch.Tensor]) -> list[dict[str, Any]]:
    return [{"prompt_embeds": each} for each in embeds]


PARAMS = [
    greedy(logprobs=2),
    SamplingParams(seed=3, max_tokens=12, n=2),
    greedy(max_tokens=8, presence_penalty=0.5, stop=[","]),
    SamplingParams(seed=5, max_tokens=9, top_k=5, logit_bias={30: 2.0}),
]


def test_they_give_what_their_tokens_give(llm: LLM, ids: list[list[int]], embeds: list[torch.Tensor]) -> None:
    expected = seen(outputs(llm, ids, PARAMS))
    for _ in range(2):
        found = outputs(llm, given(embeds), PARAMS)
        assert seen(found) == expected
    assert [one.num_cached_tokens > 0 for one in found] == [True] * len(found), "from the prefix cache"
    assert found[0].prompt_token_ids == [0] * len(ids[0])
    mixed: list[Any] = [ids[0], *given(embeds[1:3]), ids[3]]
    assert seen(outputs(llm, mixed, PARAMS)) == expected
    beside = {"prompt_embeds": embeds[0][None], "prompt": TEXTS[0]}
    (one,) = outputs(llm, beside, PARAMS[0])
    assert (one.prompt, seen([one])) == (TEXTS[0], expected[:1])


def test_in_chunks_and_after_preemption(ids: list[list[int]], embeds: list[torch.Tensor], llm: LLM) -> None:
    expected = seen(outputs(llm, ids, PARAMS))
    size = 16 * 1024 * 30 * 3  # bytes of a block of 16 tokens are less
    small = {"max_num_batched_tokens": 16, "enable_admission_control": False, "kv_cache_memory_bytes": 16 * size}
    with LLM(SMOLLM, **ARGS, **small) as chunked:
        assert seen(outputs(chunked, given(embeds), PARAMS)) == expected


def test_streams_take_them(ids: list[list[int]], embeds: list[torch.Tensor], llm: LLM) -> None:
    expected = seen(outputs(llm, ids[:1], PARAMS[0]))

    async def ask() -> RequestOutput:
        engine = AsyncLLM(SMOLLM, **ARGS)
        try:
            async for output in engine.generate(given(embeds)[0], PARAMS[0], "one"):
                last = output
            assert isinstance(last, RequestOutput)
            return last
        finally:
            engine.shutdown()

    assert seen([asyncio.run(ask())]) == expected


def test_equal_lengths_share_no_cached_blocks(llm: LLM, ids: list[list[int]], embeds: list[torch.Tensor]) -> None:
    turned = [each[::-1] for each in ids]
    expected = seen(outputs(llm, turned, PARAMS))
    outputs(llm, given(embeds), PARAMS)
    assert seen(outputs(llm, given([each.flip(0) for each in embeds]), PARAMS)) == expected


def test_penalties_do_not_know_their_tokens(llm: LLM) -> None:
    """What a prompt repeats is punished where it has tokens, and cannot be where it has none."""
    core: Any = llm._engine.core  # type: ignore[union-attr]
    repeated = llm.get_tokenizer().encode("red blue red blue red blue red blue red blue red")
    embedded = {"prompt_embeds": core.runner.model.embedding[repeated]}

    def first(prompt: Any, penalty: float) -> int:
        (output,) = outputs(llm, prompt, greedy(max_tokens=1, repetition_penalty=penalty))
        return output.outputs[0].token_ids[0]

    again = first(repeated, 1.0)
    assert again in repeated
    assert first(repeated, 9.0) != again
    assert first(embedded, 9.0) == again


def test_truncation_keeps_the_end(llm: LLM, ids: list[list[int]], embeds: list[torch.Tensor]) -> None:
    params = greedy(truncate_prompt_tokens=6)
    assert seen(outputs(llm, given(embeds), params)) == seen(outputs(llm, [each[-6:] for each in ids], greedy()))


def test_what_is_wrong_is_named(llm: LLM, smol: LLM, minilm: LLM, embeds: list[torch.Tensor]) -> None:
    good = embeds[0]
    endless = good.clone()
    endless[2, 7] = float("inf")

    def error(prompt: Any, engine: LLM = llm, **fields: Any) -> str:
        (output,) = outputs(engine, prompt, greedy(max_tokens=1, **fields))
        return output.error or ""

    floats = "prompt_embeds must be a tensor of finite floats [tokens, hidden], not "
    assert error({"prompt_embeds": [[0.5]]}) == floats + "[[0.5]]"
    assert error({"prompt_embeds": good[0]}) == floats + "[576] of float32"
    assert error({"prompt_embeds": good.long()}) == floats + f"{list(good.shape)} of int64"
    assert error({"prompt_embeds": endless}).endswith("[tokens, hidden]: some are not finite")
    assert error({"prompt_embeds": good[:, :99]}) == (
        "prompt_embeds has 99 values for a token; the model's hidden size is 576"
    )
    assert error({"prompt_embeds": good[:0]}) == "the prompt is empty: it must have at least one token"
    assert "exactly one of" in error({"prompt_embeds": good, "prompt_token_ids": [1]})
    assert error({"prompt_embeds": good}, prompt_logprobs=1) == (
        "prompt_logprobs needs a prompt of tokens, not prompt_embeds"
    )
    assert error({"prompt_embeds": good}, smol) == (
        "prompt_embeds needs enable_prompt_embeds=True among the engine's arguments"
    )
    (pooled,) = minilm.embed({"prompt_embeds": good}, use_tqdm=False)
    assert pooled.error == "prompt_embeds goes with generation only: a pooling model reads tokens"
    searched, found = llm.beam_search(
        [{"prompt_embeds": good}, "a"], BeamSearchParams(beam_width=2, max_tokens=2), use_tqdm=False
    )
    assert searched.error == "beam_search needs a prompt of text or tokens, not prompt_embeds"
    assert len(found.sequences) == 2
