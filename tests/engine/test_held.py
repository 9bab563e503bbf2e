"""Requests whose grammars take long to compile: nobody waits for them, and nothing depends on how long it takes."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from engine import SamplingParams, StructuredOutputsParams
from engine.text.inputs import InputError
from tests.engine.null_model import core_of, delay_grammars, null_llm

PLAIN = SamplingParams(max_tokens=6, n=2)  # no seed: drawn by the request's number
FORM = SamplingParams(max_tokens=6, structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
BAD = SamplingParams(max_tokens=6, structured_outputs=StructuredOutputsParams(regex="a{3"))
WORK = [("one", FORM), ("two words", PLAIN), ("three", BAD), ("four more words", PLAIN), ("five", PLAIN)]


def test_those_behind_go_first_and_draw_what_they_would_have_drawn() -> None:
    prompts, params = [prompt for prompt, _ in WORK], [params for _, params in WORK]
    expected: dict[str, Any] = {output.request_id: output for output in null_llm().stream(prompts, params)}
    llm, gate = null_llm(), threading.Event()
    delay_grammars(core_of(llm), gate)
    found = []
    for output in llm.stream(prompts, params):
        found.append(output)
        if len(found) == 3:
            gate.set()
    assert [output.request_id for output in found[:3]] == ["1", "3", "4"]
    assert {output.request_id for output in found[3:]} == {"0", "2"}
    for output in found:
        other = expected[output.request_id]
        assert [c.token_ids for c in output.outputs] == [c.token_ids for c in other.outputs]
        assert (output.prompt, output.prompt_token_ids, output.error) == (
            other.prompt, other.prompt_token_ids, other.error,
        )  # fmt: skip
    core = core_of(llm)
    core.scheduler.check()
    assert (core.unfinished, core.scheduler.kv.pool.held) == (0, 0)


def test_a_form_that_does_not_compile_raises_where_that_is_asked_for() -> None:
    llm, gate = null_llm(), threading.Event()
    delay_grammars(core_of(llm), gate)
    stream = llm.stream(["two", "three"], [PLAIN, BAD], on_error="raise")
    assert len(next(stream).outputs) == 2
    gate.set()
    with pytest.raises(InputError, match=r"structured_outputs\.regex"):
        next(stream)
    assert core_of(llm).unfinished == 0


def test_one_that_is_dropped_while_it_waits_leaves_nothing() -> None:
    llm, gate = null_llm(), threading.Event()
    delay_grammars(core_of(llm), gate)
    stream = llm.stream(["two", "three"], [PLAIN, FORM])
    next(stream)
    stream.close()
    gate.set()
    core = core_of(llm)
    assert core.unfinished == 0
    assert [len(output.outputs) for output in llm.stream(["six"], [PLAIN])] == [2]
    assert not core._held._held
