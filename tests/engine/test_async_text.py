"""Streams of text: the deltas together are the text that LLM gives, and nothing is ever taken back."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from engine import LLM, AsyncLLM, CompletionOutput, RequestOutput, RequestOutputKind, SamplingParams
from tests.engine.ask import outputs
from tests.engine.multilingual import prompts
from tests.engine.null_model import NullRunner, assert_empty, fragments, null_llm, run, serve, tokenizer

KINDS = tuple(RequestOutputKind)
DELTA, CUMULATIVE, FINAL_ONLY = RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE, RequestOutputKind.FINAL_ONLY


def with_stops(texts: list[str], fields: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Parameters with stop strings that occur in the texts, that nearly occur, or that never do."""
    chooser = random.Random(seed)
    result = []
    for text, plain in zip(texts, fields, strict=True):
        start = chooser.randrange(max(1, len(text)))
        found = text[start : start + chooser.choice((1, 2, 3, 5, 8))] or "x"
        stop = chooser.choice(([found], [found, "never there"], [found + "\x01", found[:1] + "\x02"], None))
        result.append(plain | {"stop": stop})
    return result


async def read(
    llm: AsyncLLM, name: str, prompt: Any, fields: dict[str, Any], kind: RequestOutputKind
) -> list[RequestOutput]:
    params = SamplingParams(**fields, output_kind=kind)
    return [output async for output in llm.generate(prompt, params, f"{name}-{kind}")]


async def read_all(
    llm: LLM, asked: list[Any], fields: list[dict[str, Any]], kinds: tuple[RequestOutputKind, ...]
) -> dict[RequestOutputKind, list[list[RequestOutput]]]:
    async with serve(llm) as served:
        found = {
            kind: [read(served, str(i), prompt, fields[i], kind) for i, prompt in enumerate(asked)] for kind in kinds
        }
        results = await asyncio.gather(*(asyncio.gather(*streams) for streams in found.values()))
        await assert_empty(served)
        return dict(zip(kinds, map(list, results), strict=True))


def joined(stream: list[RequestOutput], index: int = 0) -> tuple[Any, ...]:
    """A completion from its deltas."""
    parts = [c for output in stream for c in output.outputs if c.index == index]
    logprobs = None if parts[0].logprobs is None else [one for part in parts for one in part.logprobs or ()]
    assert all(part.finish_reason is None for part in parts[:-1]), "something came after the end"
    return (
        "".join(part.text for part in parts),
        [token for part in parts for token in part.token_ids],
        logprobs,
        parts[-1].cumulative_logprob,
        parts[-1].finish_reason,
        parts[-1].stop_reason,
    )


def whole(completion: CompletionOutput) -> tuple[Any, ...]:
    return (
        completion.text,
        list(completion.token_ids),
        None if completion.logprobs is None else list(completion.logprobs),
        completion.cumulative_logprob,
        completion.finish_reason,
        completion.stop_reason,
    )


def assert_grows(stream: list[RequestOutput], final: CompletionOutput) -> None:
    """Cumulative outputs are beginnings of each other, and the last is the final one."""
    states = [c for output in stream for c in output.outputs if c.index == final.index]
    for one, other in pairwise(states):
        assert other.text.startswith(one.text), "text was taken back"
        assert list(other.token_ids)[: len(one.token_ids)] == list(one.token_ids)
        assert list(other.logprobs or ())[: len(one.logprobs or ())] == list(one.logprobs or ())
    assert whole(states[-1]) == whole(final)


def compare(expected: list[RequestOutput], found: dict[RequestOutputKind, list[list[RequestOutput]]]) -> None:
    for i, sync in enumerate(expected):
        for kind, streams in found.items():
            stream = streams[i]
            assert [output.finished for output in stream] == [False] * (len(stream) - 1) + [True]
            assert all(list(output.prompt_token_ids) == list(sync.prompt_token_ids) for output in stream)
            assert all(output.prompt == sync.prompt for output in stream)
            for completion in sync.outputs:
                if kind is DELTA:
                    assert joined(stream, completion.index) == whole(completion), sync.prompt
                else:
                    assert_grows(stream, completion)
                    counts = [len(output.outputs) for output in stream]
                    assert counts == sorted(counts), "a completion that has begun stays"
            if kind is FINAL_ONLY:
                assert len(stream) == 1


def many_fields(count: int) -> list[dict[str, Any]]:
    """All that decides the text, mixed."""
    chooser = random.Random(count)
    return [
        {
            "seed": chooser.randrange(1 << 40),
            "max_tokens": chooser.randint(1, 40),
            "min_tokens": chooser.choice((0, 0, 0, 1)),
            "ignore_eos": chooser.random() < 0.3,
            "include_stop_str_in_output": chooser.random() < 0.3,
            "skip_special_tokens": chooser.random() < 0.5,
            "stop_token_ids": chooser.choice((None, None, chooser.sample(fragments(), 9))),
            "logprobs": chooser.choice((None, None, None, 0, 2)),
            "n": chooser.choice((1, 1, 1, 3)),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("ahead", [False, True])
def test_500_multilingual_prompts_with_stop_strings(ahead: bool) -> None:
    """Prompts of many scripts come back in pieces that cut characters anywhere, with stray bytes between them."""
    asked, fields = prompts(500), many_fields(500)
    first = outputs(null_llm(), asked, [SamplingParams(**one) for one in fields])
    fields = with_stops([one.outputs[-1].text for one in first], fields, seed=1)
    expected = outputs(null_llm(), asked, [SamplingParams(**one) for one in fields])
    found = run(read_all(null_llm(NullRunner(ahead, seconds=0.002)), asked, fields, KINDS))
    compare(expected, found)
    stopped = [c for one in expected for c in one.outputs if isinstance(c.stop_reason, str)]
    assert len(stopped) > 100
    assert sum("\ufffd" in c.text for one in expected for c in one.outputs) > 100, "bytes that form no character"
    assert any(len(stream) > 20 for stream in found[DELTA])


def step_by_step(ids: list[int], **fields: Any) -> list[str]:
    """The text of each token's delta."""
    steps = threading.Semaphore(1)

    async def work() -> list[str]:
        async with serve(null_llm(NullRunner(steps=steps, script=ids))) as llm:
            params = SamplingParams(**({"max_tokens": len(ids)} | fields), output_kind=DELTA)
            texts = []
            async for output in llm.generate("say it", params, "a"):
                assert len(output.outputs[0].token_ids) == 1
                texts.append(output.outputs[0].text)
                steps.release()
            return texts

    return run(work())


def test_a_character_comes_when_it_is_whole() -> None:
    """Emoji are several tokens in this vocabulary; no delta has half of one."""
    text = "👩‍👩‍👧‍👦日本語शृ"
    ids = tokenizer().encode(text)
    assert len(ids) > len(text)
    texts = step_by_step(ids)
    assert "".join(texts) == text
    assert texts.count("") >= len(ids) - len(text)
    assert step_by_step([*ids, ids[0]])[-1] == "\ufffd", "at the end what is no character comes out"


def test_what_may_become_a_stop_string_waits() -> None:
    ids = [tokenizer().encode(letter)[0] for letter in "abcabcabd"]
    stop = ["never", "abd"]
    assert step_by_step(ids, stop=stop) == ["", "", "abc", "", "", "abc", "", "", ""]
    assert step_by_step(ids[:8], stop=stop) == ["", "", "abc", "", "", "abc", "", "ab"]
    assert step_by_step(ids, stop=stop, include_stop_str_in_output=True) == list("abcabcabd")
    assert step_by_step(ids, stop="bc", min_tokens=3) == ["a", "", "bc", "a", "", ""], "the first one was too early"


def test_deltas_without_text() -> None:
    fields = [{"max_tokens": 5, "detokenize": False, "seed": 3, "ignore_eos": True}]
    (stream,) = run(read_all(null_llm(), ["some words"], fields, (DELTA,)))[DELTA]
    assert sum(len(output.outputs[0].token_ids) for output in stream) == 5
    assert all(output.outputs[0].text == "" for output in stream)


def test_prompt_logprobs_come_once_in_deltas_and_always_in_cumulative_outputs() -> None:
    asked = ["a prompt of several words, longer than a step " * 3] * 2
    fields = [{"max_tokens": 4, "prompt_logprobs": 1, "n": n, "seed": 1, "ignore_eos": True} for n in (1, 3)]
    llm = null_llm(max_tokens=16)
    outputs(llm, asked[:1], SamplingParams(max_tokens=1))  # the prefix cache has the prompt: later children are ahead
    found = run(read_all(llm, asked, fields, KINDS))
    length = len(tokenizer().encode(asked[0]))
    for kind, streams in found.items():
        for stream in streams:
            given = [output.prompt_logprobs for output in stream if output.prompt_logprobs is not None]
            assert all(len(one) == length and one[0] is None for one in given)
            assert len(given) == 1 if kind is DELTA else given
            assert stream[-1].prompt_logprobs is not None or kind is DELTA


def test_the_real_model(smol: LLM, limited: Callable[..., LLM]) -> None:
    """Hot sampling from SmolLM2 gives tokens of every kind."""
    asked = prompts(24, seed=8)
    fields: list[dict[str, Any]] = [
        {"seed": i, "temperature": 4.0, "max_tokens": 3 + i % 9, "logprobs": 1 if i % 8 == 0 else None}
        for i in range(24)
    ]
    first = outputs(limited(smol), asked, [SamplingParams(**one) for one in fields])
    fields = with_stops([one.outputs[0].text for one in first], fields, seed=2)
    expected = outputs(limited(smol), asked, [SamplingParams(**one) for one in fields])
    found = run(read_all(limited(smol), asked, fields, (DELTA,)))
    compare(expected, found)
    assert sum(isinstance(one.outputs[0].stop_reason, str) for one in expected) > 3
