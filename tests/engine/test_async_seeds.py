"""The same tokens sync and async, whatever arrives beside a request and in whatever order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from engine import LLM, AsyncLLM, EngineArgs, PoolingParams, RequestOutput, RequestOutputKind, SamplingParams
from tests.engine.ask import SMOLLM, outputs
from tests.engine.null_model import drain, null_llm, run, serve, started

Limited = Callable[..., LLM]


def essence(output: RequestOutput) -> list[Any]:
    return [
        (c.index, tuple(c.token_ids), c.text, c.finish_reason, c.cumulative_logprob, c.logprobs) for c in output.outputs
    ]


async def shuffled(
    llm: AsyncLLM, prompts: Sequence[Any], params: Sequence[SamplingParams], seed: int
) -> list[list[Any]]:
    """All prompts, in another order, a few of them cancelled on the way, beside requests of other kinds."""
    draw = random.Random(seed)
    found: dict[int, list[Any]] = {}

    async def one(i: int) -> None:
        *_, last = await drain(llm.generate(prompts[i], params[i], str(i)))
        found[i] = essence(last)

    order = draw.sample(range(len(prompts)), len(prompts))
    left = [started(llm, f"left-{i}") for i in range(2)]
    await asyncio.gather(*(one(i) for i in order), *left)
    return [found[i] for i in range(len(prompts))]


def test_seeded_requests_repeat(smol: LLM, limited: Limited, prompts: list[list[int]]) -> None:
    """Also where blocks run out and requests are computed anew, and for every one of n completions."""
    asked = [prompt[:60] for prompt in prompts[:10]]
    kinds = (RequestOutputKind.CUMULATIVE, RequestOutputKind.FINAL_ONLY)
    params = [
        SamplingParams(
            seed=1000 + i,
            n=1 + i % 3,
            max_tokens=4 + i % 9,
            temperature=1.5,
            logprobs=2 if i % 4 == 0 else None,
            output_kind=kinds[i % 2],
        )
        for i in range(10)
    ]
    expected = [essence(output) for output in outputs(limited(smol), asked, params)]
    tiny = limited(smol, blocks=18, block_size=8, admission_control=False, max_seqs=8)

    async def work() -> None:
        async with serve(limited(smol)) as llm:
            assert await shuffled(llm, asked, params, seed=1) == expected
        async with serve(tiny) as llm:
            assert await shuffled(llm, asked, params, seed=2) == expected
            assert (await llm.stats()).preemptions > 0

    run(work(), 400)


def test_unseeded_requests_draw_by_their_id() -> None:
    """Numbers draw what LLM draws for the prompt of this number; other names draw by themselves."""
    asked = [f"prompt number {i}" for i in range(30)]
    params = [SamplingParams(max_tokens=20, ignore_eos=True, n=1 + i % 2) for i in range(30)]
    expected = [essence(output) for output in outputs(null_llm(), asked, params)]

    async def work() -> None:
        named = []
        for seed in (1, 2):
            async with serve(null_llm()) as llm:
                assert await shuffled(llm, asked, params, seed) == expected
                named.append([(await drain(llm.generate(asked[0], params[0], name)))[-1] for name in ("a", "b", "00")])
        first, second = ([essence(output) for output in outputs] for outputs in named)
        assert first == second
        assert first[0] != first[1]

    run(work())


def test_prompts_that_cannot_be_read_leave_the_others_their_numbers() -> None:
    """A bad row changes no token of the rows behind it, whether it fails in the tokenizer, the template or the core."""
    asked: list[Any] = [f"prompt number {i}" for i in range(10)]
    bad = {2: {"nope": 1}, 4: [], 5: {"messages": []}, 7: {"prompt": "a", "priority": 3}, 8: "half a pair: \ud800"}
    params = [SamplingParams(max_tokens=20, ignore_eos=True)] * 10
    expected = [essence(output) for output in outputs(null_llm(), asked, params)]
    for at in bad:
        expected[at] = []
    asked = [bad.get(i, prompt) for i, prompt in enumerate(asked)]
    assert [essence(output) for output in outputs(null_llm(), asked, params)] == expected

    async def work() -> None:
        async with serve(null_llm()) as llm:
            assert await shuffled(llm, asked, params, 3) == expected

    run(work())


def test_a_whole_engine_from_its_arguments(smol: LLM) -> None:
    """Conversations, and the real loading path."""
    messages = [{"role": "user", "content": "Answer with one word: what is the capital of France?"}]
    params = SamplingParams(temperature=0, max_tokens=12)
    (expected,) = smol.chat(messages, params, use_tqdm=False)

    async def work() -> None:
        async with AsyncLLM.from_engine_args(EngineArgs(model=SMOLLM, dtype="float32", max_num_seqs=4)) as llm:
            *_, last = await drain(llm.generate({"messages": messages}, params, "chat"))
            assert essence(last) == essence(expected)
            assert last.prompt_token_ids == expected.prompt_token_ids
            assert "Paris" in last.outputs[0].text
            stats = await llm.stats()
            assert (stats.finished_requests, stats.kv_blocks_used) == (1, 0)
            assert stats.device

    run(work(), 400)


def test_embeddings(minilm: LLM) -> None:
    texts = [f"A sentence about the number {i}." for i in range(30)]
    expected = minilm.embed(texts, PoolingParams(dimensions=32), use_tqdm=False)

    async def work() -> None:
        async with AsyncLLM("all-minilm-l6-v2", dtype="float32") as llm:

            async def one(i: int) -> Any:
                (output,) = [o async for o in llm.encode(texts[i], PoolingParams(dimensions=32), f"e{i}")]
                return output

            found = await asyncio.gather(*map(one, range(30)))
            assert [f.prompt_token_ids for f in found] == [e.prompt_token_ids for e in expected]
            for one_found, one_expected in zip(found, expected, strict=True):
                difference = zip(one_found.outputs.embedding, one_expected.outputs.embedding, strict=True)
                assert max(abs(a - b) for a, b in difference) < 1e-5
                assert one_found.metrics.arrival <= one_found.metrics.queued <= one_found.metrics.scheduled
            (bad,) = [o async for o in llm.encode([], None, "bad")]
            assert bad.error is not None
            assert "empty" in bad.error
            task = asyncio.create_task(anext(llm.encode(texts[0], None, "cancelled")))
            await asyncio.sleep(0)
            task.cancel()
            assert (await asyncio.wrap_future(llm._thread.call(lambda core: core.unfinished))) == 0

    run(work(), 400)
