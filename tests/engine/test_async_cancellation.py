"""Streams of AsyncLLM that end before they are finished: left, cancelled, aborted, closed."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from typing import Any

import pytest

from engine import AsyncLLM, RequestOutput, RequestOutputKind, SamplingParams
from tests.engine.ask import outputs
from tests.engine.null_model import (
    LONG,
    SHORT,
    NullRunner,
    assert_empty,
    drain,
    null_llm,
    run,
    serve,
    started,
    until,
)  # fmt: skip

COUNT = 1000
FATES = ("whole", "whole", "leave", "close", "cancel", "abort")


def params_of(i: int) -> SamplingParams:
    kinds = (RequestOutputKind.DELTA, RequestOutputKind.DELTA, *RequestOutputKind)
    return SamplingParams(seed=i, max_tokens=10 + i % 40, output_kind=kinds[i % len(kinds)])


async def live(llm: AsyncLLM, i: int, fate: str, draw: random.Random) -> list[RequestOutput]:
    """Read one stream, up to an output where it is left or aborted, or to its end."""
    await asyncio.sleep(draw.random() * 0.3)
    stop_at, stream, seen = draw.randint(1, 12), llm.generate(f"prompt number {i}", params_of(i), str(i)), []
    async for output in stream:
        seen.append(output)
        if len(seen) == stop_at and fate == "leave":
            break
        if len(seen) == stop_at and fate == "close":
            await stream.aclose()
            break
        if len(seen) == stop_at and fate == "abort":
            await llm.abort(str(i))
    return seen


async def live_and_let_die(llm: AsyncLLM) -> tuple[list[str], list[list[RequestOutput] | BaseException]]:
    draw = random.Random(4)
    fates = [draw.choice(FATES) for _ in range(COUNT)]
    tasks = [asyncio.create_task(live(llm, i, fate, random.Random(i))) for i, fate in enumerate(fates)]
    for task, fate in zip(tasks, fates, strict=True):
        if fate == "cancel":
            asyncio.get_running_loop().call_later(draw.random() * 0.6, task.cancel)
    for _ in range(30):  # aborts from outside, also of what has not begun and what is finished
        await asyncio.sleep(0.02)
        await llm.abort([str(i) for i in range(COUNT) if fates[i] == "abort" and draw.random() < 0.05])
    return fates, await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("ahead", [False, True])
def test_1000_streams_with_random_cancellation(ahead: bool) -> None:
    """All end, none hangs, no block is lost, and those that run to the end are complete."""
    prompts = [f"prompt number {i}" for i in range(COUNT)]
    expected = outputs(null_llm(), prompts, [params_of(i) for i in range(COUNT)])

    async def work() -> None:
        async with serve(null_llm(NullRunner(ahead, seconds=0.001), max_seqs=200, blocks=400)) as llm:
            fates, results = await live_and_let_die(llm)
            await until(lambda: not llm._streams)
            await assert_empty(llm)
            stats = await llm.stats()
            assert (stats.waiting, stats.running) == (0, 0)
            assert stats.preemptions > 0
        ends = Counter(fates)
        for i, (fate, seen) in enumerate(zip(fates, results, strict=True)):
            if isinstance(seen, BaseException):
                assert isinstance(seen, asyncio.CancelledError), seen
                assert fate == "cancel"
                ends["cancelled"] += 1
            elif fate in ("whole", "abort") or seen[-1].finished:
                assert seen[-1].finished
                check_whole(seen, expected[i], aborted=fate == "abort")
        assert ends["cancelled"] > 0  # how many were still running is a matter of time
        assert min(ends[fate] for fate in FATES) > 100

    run(work())


def check_whole(seen: list[RequestOutput], expected: RequestOutput, aborted: bool) -> None:
    delta = params_of(int(seen[-1].request_id)).output_kind is RequestOutputKind.DELTA
    ids = [token for output in seen[0 if delta else -1 :] for token in output.outputs[0].token_ids]
    text = "".join(output.outputs[0].text for output in seen[0 if delta else -1 :])
    (completion,) = expected.outputs
    assert ids == list(completion.token_ids)[: len(ids)]
    if seen[-1].outputs[0].finish_reason != "abort" or not aborted:
        assert (text, seen[-1].outputs[0].finish_reason) == (completion.text, completion.finish_reason)


def test_a_stream_that_is_left_in_any_way_frees_its_blocks() -> None:
    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.001))) as llm:
            async for output in llm.generate("some words", LONG, "break"):
                assert not output.finished
                break
            closed = await started(llm, "aclose")
            await closed.aclose()
            dropped: Any = await started(llm, "dropped")
            cycle = [dropped]
            cycle.append(cycle)
            del dropped, cycle
            gc.collect()
            task = asyncio.create_task(drain(llm.generate("some words", LONG, "cancelled")))
            await until(lambda: "cancelled" in llm._thread._asks)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(drain(llm.generate("some words", LONG, "late")), 0.05)
            await until(lambda: not llm._thread._asks and not llm._streams)
            await assert_empty(llm)
            assert await drain(llm.generate("some words", SHORT, "break")), "the id is free again"

    run(work())


def test_abort_in_every_phase() -> None:
    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.001), max_seqs=1)) as llm:
            gate, read = threading.Event(), llm._reader._read
            running = await started(llm, "running")
            queued = asyncio.create_task(drain(llm.generate("others wait", SHORT, "queued")))
            await until(lambda: "queued" in llm._thread._asks)
            llm._reader._read = lambda asks: (gate.wait(60), read(asks))[1]  # type: ignore[method-assign]
            coming = asyncio.create_task(drain(llm.generate("being read", LONG, "coming")))
            await until(lambda: "coming" in llm._streams)

            await llm.abort(["queued", "coming", "unknown"])
            gate.set()
            for task in (queued, coming):
                (last,) = await task
                assert (last.finished, last.error) == (True, None)
                assert [(c.finish_reason, c.text, tuple(c.token_ids)) for c in last.outputs] == [("abort", "", ())]
            assert "running" in llm._thread._asks, "it goes on"
            await llm.abort("running")
            assert (await llm.stats()).kv_blocks_used == 0
            rest = await drain(running)
            assert rest[-1].outputs[0].finish_reason == "abort"
            await llm.abort("running")
            await llm.abort("unknown")
            done = await drain(llm.generate("one more", SHORT, "done"))
            await llm.abort("done")
            assert done[-1].outputs[0].finish_reason == "length"
            await assert_empty(llm)

    run(work())


def test_what_an_aborted_stream_has_is_complete() -> None:
    """Held back text comes out at the end, for every completion of the prompt."""
    params = SamplingParams(max_tokens=500, n=3, seed=5, stop="never \x01", output_kind=RequestOutputKind.DELTA)

    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.001))) as llm:
            texts, tokens = {0: "", 1: "", 2: ""}, {0: 0, 1: 0, 2: 0}
            async for output in llm.generate("some words to say", params, "a"):
                for completion in output.outputs:
                    texts[completion.index] += completion.text
                    tokens[completion.index] += len(completion.token_ids)
                if max(tokens.values()) > 5:
                    await llm.abort("a")
            (whole,) = outputs(null_llm(), "some words to say", params)
            for index, completion in enumerate(whole.outputs):
                ids = list(completion.token_ids)[: tokens[index]]
                known = llm._llm._open.tokenizer
                assert known is not None
                assert texts[index] in (known.decode(ids), completion.text)

    run(work())


def test_closing_ends_every_stream() -> None:
    async def work() -> None:
        llm = serve(null_llm(NullRunner(seconds=0.001), max_seqs=4))
        tasks = [asyncio.create_task(drain(llm.generate(f"words {i}", LONG, str(i)))) for i in range(12)]
        await until(lambda: len(llm._thread._asks) == 12)
        llm.shutdown()
        for stream in await asyncio.gather(*tasks):
            assert stream[-1].finished
            assert stream[-1].outputs[0].finish_reason == "abort"
        llm.shutdown()
        assert not llm.is_running
        for call in (llm.check_health, llm.stats, lambda: drain(llm.generate("words", SHORT, "new"))):
            with pytest.raises(RuntimeError, match="closed"):
                await call()

    run(work())


def test_an_event_loop_that_is_closed_leaves_nothing_behind() -> None:
    """Its generators are never ended: the engine finds out by itself."""
    llm = serve(null_llm(NullRunner(seconds=0.001)))
    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(started(llm, "orphan"))
    loop.close()

    async def work() -> None:
        await until(lambda: not llm._thread._asks)
        assert await drain(llm.generate("words", SHORT, "orphan")), "the id is free"
        await assert_empty(llm)

    run(work())
    llm.close()
    del stream


def test_an_engine_that_nobody_holds_ends_its_threads() -> None:
    before = threading.active_count()
    llm = serve(null_llm())
    assert threading.active_count() == before + 2
    del llm
    gc.collect()
    assert threading.active_count() == before
