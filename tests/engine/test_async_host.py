"""What AsyncLLM has from the engine's host: parsed answers, sleep, metrics."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable

import pytest

from engine import LLM, AsyncLLM, ParameterError, RequestOutputKind, SamplingParams, StructuredOutputsParams
from engine.sleep import AsleepError
from tests.engine.ask import SMOLLM, outputs
from tests.engine.null_model import (
    LONG,
    SHORT,
    NullRunner,
    assert_empty,
    core_of,
    delay_grammars,
    drain,
    null_llm,
    run,
    serve,
    started,
    tokenizer,
    until,
)

CHAT = {"messages": [{"role": "user", "content": "Where?"}], "reasoning_parser": "think"}


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_the_last_output_of_a_chat_has_its_messages(kind: RequestOutputKind) -> None:
    script = [*tokenizer().encode("<think>It is France.</think>Paris."), 2]
    params = SamplingParams(max_tokens=50, n=2, output_kind=kind)

    async def work() -> None:
        async with serve(null_llm(NullRunner(script=script))) as llm:
            *before, last = await drain(llm.generate(CHAT, params, "chat"))  # type: ignore[arg-type]
            assert all(one.message is None for output in before for one in output.outputs)
            messages = [one.message for one in last.outputs]
            assert [(m.reasoning, m.content) for m in messages if m is not None] == [("It is France.", "Paris.")] * 2
            if kind is RequestOutputKind.DELTA:
                texts = [
                    "".join(o.text for output in (*before, last) for o in output.outputs if o.index == i)
                    for i in (0, 1)
                ]
                assert texts == ["<think>It is France.</think>Paris."] * 2
            (bad,) = await drain(llm.generate({**CHAT, "reasoning_parser": "thnk"}, params, "bad"))  # type: ignore[arg-type]
            assert bad.error is not None
            assert "thnk" in bad.error

    run(work())


def test_sleep_and_metrics() -> None:
    greedy = SamplingParams(temperature=0, max_tokens=5)
    small = {"num_hidden_layers": 1}

    async def work() -> None:
        async with AsyncLLM(SMOLLM, load_format="dummy", hf_overrides=small, max_model_len=4096) as llm:
            before = await drain(llm.generate("some words", greedy, "before"))
            running = await started(llm, "running")
            with pytest.raises(ParameterError, match="mode"):
                await llm.sleep(1, mode="keep")
            await llm.sleep(2)
            assert await llm.is_sleeping()
            assert (await drain(running))[-1].outputs[0].finish_reason == "abort"
            with pytest.raises(AsleepError):
                await drain(llm.generate("some words", LONG, "asleep"))
            assert await llm.wake_up()
            after = await drain(llm.generate("some words", greedy, "after"))
            assert after[-1].outputs[0].token_ids == before[-1].outputs[0].token_ids
            found = {(m.name, m.labels.get("finished_reason")): m for m in await llm.get_metrics()}
            assert found["galley:request_success", "length"].value == 2  # type: ignore[attr-defined]
            assert found["galley:request_success", "abort"].value == 1  # type: ignore[attr-defined]
            await asyncio.gather(*(drain(llm.generate("words", greedy, str(i))) for i in range(3)))

    run(work())


def test_a_grammar_that_is_compiled_holds_nobody_up() -> None:
    form = SamplingParams(max_tokens=8, structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
    gate = threading.Event()

    async def work() -> None:
        async with serve(null_llm(NullRunner(seconds=0.001))) as llm:
            delay_grammars(core_of(llm), gate)
            running = await started(llm, "running")
            waiting = asyncio.create_task(drain(llm.generate("some words", form, "waiting")))
            given_up = asyncio.create_task(drain(llm.generate("some words", form, "given up")))
            await until(lambda: len(core_of(llm)._held._held) == 2)
            for _ in range(30):
                await anext(running)
            await llm.abort("given up")
            (last,) = await given_up
            assert last.outputs[0].finish_reason == "abort"
            assert not waiting.done()
            gate.set()
            (*_, last) = await waiting
            assert last.finished
            assert last.outputs[0].text in ("yes", "no")
            await running.aclose()
            await until(lambda: not llm._thread._asks)
            await assert_empty(llm)

    run(work())


def test_others_come_and_go_while_all_that_is_there_waits_for_a_grammar() -> None:
    """And a form that turns out to be none is refused as one that is known to be none."""
    bad = SamplingParams(max_tokens=8, structured_outputs=StructuredOutputsParams(regex="a{3"))
    gate = threading.Event()

    async def work() -> None:
        async with serve(null_llm()) as llm:
            delay_grammars(core_of(llm), gate)
            waiting = asyncio.create_task(drain(llm.generate("some words", bad, "waiting")))
            await until(lambda: core_of(llm)._held._held)
            (*_, last) = await drain(llm.generate("other words", SHORT, "other"))
            assert len(last.outputs[0].token_ids) == 4
            assert not waiting.done()
            gate.set()
            (refused,) = await waiting
            (known,) = await drain(llm.generate("some words", bad, "again"))
            assert refused.error == known.error
            assert "structured_outputs.regex" in str(refused.error)
            assert (refused.outputs, refused.prompt) == (known.outputs, known.prompt) == ([], "some words")
            await assert_empty(llm)

    run(work())


def test_outputs_of_a_form_are_those_of_llm(smol: LLM, limited: Callable[..., LLM]) -> None:
    form = StructuredOutputsParams(regex=r"[0-9]{4}-[a-f]{3}")
    params = SamplingParams(max_tokens=20, seed=7, n=2, structured_outputs=form, output_kind=RequestOutputKind.DELTA)
    (expected,) = outputs(limited(smol), "The code is", params)

    async def work() -> None:
        async with serve(limited(smol)) as llm:
            texts = ["", ""]
            async for output in llm.generate("The code is", params, "code"):
                for one in output.outputs:
                    texts[one.index] += one.text
            assert texts == [one.text for one in expected.outputs]
            assert all(re.fullmatch(form.regex or "", text) for text in texts)

    run(work())
