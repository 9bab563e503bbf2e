"""What AsyncLLM has from the engine's host: parsed answers, sleep, metrics."""

from __future__ import annotations

import asyncio

import pytest

from engine import AsyncLLM, ParameterError, RequestOutputKind, SamplingParams
from engine.sleep import AsleepError
from tests.engine.ask import SMOLLM
from tests.engine.null_model import LONG, NullRunner, drain, null_llm, run, serve, started, tokenizer

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
