"""Ending single requests from outside, with and without steps launched ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine import LLM, RequestOutput, SamplingParams
from engine.generation import GenerationCore
from tests.engine.ask import outputs
from tests.engine.test_launched_ahead import ahead

Limited = Callable[..., LLM]


@pytest.fixture(params=["in step", "ahead"])
def llm(request: pytest.FixtureRequest, smol: LLM, limited: Limited) -> LLM:
    return ahead(limited(smol))[0] if request.param == "ahead" else limited(smol)


def core_of(llm: LLM) -> GenerationCore:
    core = llm._open.core
    assert isinstance(core, GenerationCore)
    return core


def test_others_go_on_and_the_aborted_keeps_what_it_has(llm: LLM, prompts: list[list[int]]) -> None:
    params: list[Any] = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (3, 12, 12, 6)]
    expected = outputs(llm, prompts[:4], params)
    aborted: RequestOutput | None = None
    rest: dict[str, Any] = {}
    for output in llm.stream(prompts[:4], params):
        rest[output.request_id] = output
        if output.request_id == "0":
            aborted = llm.abort("2")
    assert aborted is not None
    (completion,) = aborted.outputs
    assert completion.finish_reason == "abort"
    assert 1 <= len(completion.token_ids) < 12
    assert list(completion.token_ids) == list(expected[2].outputs[0].token_ids)[: len(completion.token_ids)]
    assert completion.text
    assert sorted(rest) == ["0", "1", "3"]
    assert all(rest[i].outputs[0].token_ids == expected[int(i)].outputs[0].token_ids for i in rest)
    core = core_of(llm)
    core.scheduler.check()
    assert core.unfinished == core.scheduler.kv.pool.held == 0


def test_waiting_requests_and_all_completions_of_a_prompt(
    smol: LLM, limited: Limited, prompts: list[list[int]]
) -> None:
    llm = limited(smol, max_seqs=2)
    params = [SamplingParams(max_tokens=4, ignore_eos=True, n=n, seed=1) for n in (2, 3)]
    found: list[RequestOutput | None] = []
    core = core_of(llm)
    original = core.step

    def step() -> list[RequestOutput]:
        if not found:
            assert core.scheduler.waiting >= 3
            found.append(llm.abort("1"))
        return original()

    core.step = step  # type: ignore[method-assign]
    ids = [output.request_id for output in llm.stream(prompts[:2], params)]
    assert ids == ["0"]
    assert found[0] is not None
    assert [(c.finish_reason, tuple(c.token_ids)) for c in found[0].outputs] == [("abort", ())] * 3


def test_unknown_or_finished_ids_are_none(llm: LLM, prompts: list[list[int]]) -> None:
    for output in llm.stream(prompts[:2], SamplingParams(max_tokens=2, ignore_eos=True)):
        assert llm.abort(output.request_id) is None
        assert llm.abort("77") is None


def test_embedding_models_have_nothing_to_abort(minilm: LLM) -> None:
    with pytest.raises(TypeError, match="embed"):
        minilm.abort("0")
