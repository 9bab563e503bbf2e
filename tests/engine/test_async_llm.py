"""AsyncLLM: who waits for whom, what is refused, and what becomes of everyone when the engine dies."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from engine import EngineDeadError, ParameterError, PoolingParams, RequestOutputKind, SamplingParams
from engine.output_stream import LoopPost
from engine.text.inputs import read_inputs
from tests.engine.ask import outputs
from tests.engine.null_model import (
    LONG,
    SHORT,
    NullRunner,
    assert_empty,
    core_of,
    drain,
    null_llm,
    run,
    serve,
    started,
    until,
)  # fmt: skip

BAD: list[tuple[Any, str]] = [
    ("", "empty"),
    ([1, 99_999_999], "not in the vocabulary"),
    ([1] * 5000, "max_model_len"),
    ("\ud800", "D800"),
    ({"messages": []}, "no messages"),
    ({"prompt": "a", "x": 1}, "'x'"),
    (17, "not 17"),
]


def delta(i: int) -> SamplingParams:
    return SamplingParams(seed=i, max_tokens=10 + i % 40, output_kind=RequestOutputKind.DELTA)


def test_a_slow_consumer_stops_nobody_and_loses_nothing() -> None:
    params = SamplingParams(max_tokens=300, ignore_eos=True, seed=9, output_kind=RequestOutputKind.DELTA)

    async def work() -> None:
        async with serve(null_llm()) as llm:
            slow = llm.generate("some words to say", params, "slow")
            first = await anext(slow)
            others = await asyncio.gather(*(drain(llm.generate("other words", params, f"{i}")) for i in range(20)))
            assert all(stream[-1].finished for stream in others)
            await until(lambda: "slow" not in llm._thread._asks)
            rest = await drain(slow)
            (expected,) = outputs(null_llm(), "some words to say", params)
            assert len(rest) == 1, "all that came meanwhile is one output"
            assert first.outputs[0].text + rest[0].outputs[0].text == expected.outputs[0].text
            ids = [*first.outputs[0].token_ids, *rest[0].outputs[0].token_ids]
            assert ids == list(expected.outputs[0].token_ids)

    run(work())


def test_one_wake_up_per_step_and_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries: list[int] = []
    original = LoopPost._deliver

    def deliver(self: LoopPost) -> None:
        deliveries.append(len(self._items))
        original(self)

    monkeypatch.setattr(LoopPost, "_deliver", deliver)

    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.002))) as llm:
            await asyncio.gather(*(drain(llm.generate(f"words {i}", delta(i), str(i))) for i in range(200)))
            assert len(deliveries) <= (await llm.stats()).steps
            assert sum(deliveries) > 10 * len(deliveries)

    run(work())


def test_an_engine_that_dies_tells_everyone() -> None:
    async def work() -> None:
        llm = serve(null_llm(NullRunner(seconds=0.001, fails_at=20), max_seqs=8))
        await llm.check_health()
        assert llm.is_running
        assert not llm.errored
        streams = [drain(llm.generate("some words", LONG, str(i))) for i in range(30)]
        results = await asyncio.gather(*streams, return_exceptions=True)
        assert all(isinstance(result, EngineDeadError) for result in results)
        assert all(isinstance(result.__cause__, ZeroDivisionError) for result in results)  # type: ignore[union-attr]
        assert "on fire" in str(results[0])
        assert llm.errored
        assert not llm.is_running
        with pytest.raises(EngineDeadError, match="on fire"):
            await llm.check_health()
        with pytest.raises(EngineDeadError):
            await drain(llm.generate("some words", SHORT, "new"))
        with pytest.raises(EngineDeadError):
            await llm.stats()
        await llm.abort("0")
        llm.shutdown()
        assert isinstance(llm.dead_error.__cause__, ZeroDivisionError)

    run(work())


def test_what_came_before_the_death_is_given_out() -> None:
    async def work() -> None:
        async with serve(null_llm(NullRunner(fails_at=6))) as llm:
            tokens = 0
            with pytest.raises(EngineDeadError):
                async for output in llm.generate("some words", LONG, "a"):
                    tokens += len(output.outputs[0].token_ids)
            assert tokens == 5

    run(work())


def test_two_requests_may_not_have_one_id() -> None:
    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.001))) as llm:
            stream = await started(llm, "same")
            with pytest.raises(ValueError, match="'same' is in use"):
                await anext(llm.generate("other words", SHORT, "same"))
            assert not (await anext(stream)).finished, "the first one is not disturbed"
            await stream.aclose()
            for _ in range(20):  # at once, while the abort is still on its way
                await (await started(llm, "same")).aclose()
            await until(lambda: not llm._thread._asks)
            await assert_empty(llm)

    run(work())


def test_bad_requests_say_what_is_wrong_and_others_go_on() -> None:
    async def work() -> None:
        async with serve(null_llm()) as llm:
            good = asyncio.create_task(drain(llm.generate("good words", SHORT, "good")))
            for number, (prompt, said) in enumerate(BAD):
                (output,) = await drain(llm.generate(prompt, SHORT, str(number)))
                assert output.finished
                assert output.outputs == []
                assert output.error is not None
                assert said in output.error
            with pytest.raises(TypeError, match="sampling_params"):
                llm.generate("words", {"temperature": 0}, "a")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="request_id"):
                await anext(llm.generate("words", SHORT, 5))  # type: ignore[arg-type]
            with pytest.raises(ParameterError, match="priority"):
                llm.generate("words", SHORT, "a", priority=1)
            with pytest.raises(TypeError, match="offers generate"):
                llm.encode("words", PoolingParams(), "a")
            assert (await good)[-1].outputs[0].finish_reason == "length"
            await assert_empty(llm)

    run(work())


def test_lower_priorities_run_first() -> None:
    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.001), max_seqs=1, policy="priority")) as llm:
            first = await started(llm, "first")
            order: list[str] = []

            async def one(name: str, priority: int) -> None:
                await drain(llm.generate("words", SHORT, name, priority=priority))
                order.append(name)

            tasks = [asyncio.create_task(one(f"{p}-{i}", p)) for i, p in enumerate((3, 1, 2, -1))]
            await until(lambda: len(llm._thread._asks) == 5)
            await first.aclose()
            await asyncio.gather(*tasks)
            assert order == ["-1-3", "1-1", "2-2", "3-0"]

    run(work())


def test_several_event_loops_and_threads() -> None:
    """Each request belongs to the loop that reads it."""
    llm = serve(null_llm(NullRunner(seconds=0.0005)))
    expected = outputs(null_llm(), [f"prompt number {i}" for i in range(80)], [delta(i) for i in range(80)])
    wrong: list[Any] = []

    async def one(i: int) -> None:
        stream = await drain(llm.generate(f"prompt number {i}", delta(i), str(i)))
        if "".join(o.outputs[0].text for o in stream) != expected[i].outputs[0].text:
            wrong.append(i)

    async def part(which: range) -> None:
        await asyncio.gather(*(one(i) for i in which))

    def work(which: range) -> None:
        try:
            run(part(which))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(range(start, 80, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    run(assert_empty(llm))
    llm.close()


def test_idle_threads_use_no_processor() -> None:
    async def work() -> None:
        async with serve(null_llm()) as llm:
            await drain(llm.generate("words", SHORT, "a"))
            await assert_empty(llm)
            assert llm._thread.ident is not None
            clock = time.pthread_getcpuclockid(llm._thread.ident)
            await asyncio.sleep(0.05)
            before = time.clock_gettime_ns(clock)
            await asyncio.sleep(0.2)
            assert time.clock_gettime_ns(clock) == before

    run(work())


def test_reading_prompts_holds_up_neither_streams_nor_the_loop() -> None:
    gate = threading.Event()

    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.001))) as llm:
            stream = await started(llm, "running")
            llm._reader._read = lambda asks: (gate.wait(60), read_inputs([a.prompt for a in asks], None))[1]  # type: ignore[method-assign]
            waiting = asyncio.create_task(drain(llm.generate([5, 6, 7], SHORT, "waiting")))
            for _ in range(50):
                await anext(stream)
            assert not waiting.done()
            gate.set()
            assert (await waiting)[-1].finished
            await stream.aclose()

    run(work())


def test_metrics_and_defaults() -> None:
    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.001))) as llm:
            stream = await drain(llm.generate("some words to say", SamplingParams(max_tokens=30, ignore_eos=True), "a"))
            for output in stream:
                one = output.metrics
                assert one is not None
                assert one.queued is not None
                assert one.scheduled is not None
                assert one.first_token is not None
                assert one.arrival <= one.queued <= one.scheduled <= one.first_token
                assert (one.last_token is None) == (not output.finished)
            assert await llm.reset_prefix_cache()
            assert (await llm.stats()).finished_requests == 1
            own = llm.get_tokenizer()
            assert own("some words")["input_ids"] == list(stream[0].prompt_token_ids)[:2]
            assert own is not core_of(llm).tokenizer.hf  # type: ignore[union-attr]
            assert len(await drain(llm.generate("words", None, "b"))) >= 1

    run(work())
