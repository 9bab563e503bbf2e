"""Grammars on the CUDA runner, as far as a CPU goes: masks filled behind a launched step, from tokens still pending."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest

from engine import SamplingParams
from engine.generation import GenerationCore
from engine.text.inputs import Input
from tests.engine.execute.test_cuda_runner import LIMITS, VOCAB, Rig, rig, run
from tests.engine.structured.small import EOS, tokenizer

FORMS: list[dict[str, Any]] = [
    {"regex": "[a-c]{2,5}"}, {}, {"choice": ["true", "ab12", "tree"]},
    {"json": {"type": "array", "items": {"const": 1}}},
]  # fmt: skip


FITS = r"[a-c]{2,5}|true|ab12|tree|\[\s*(1\s*(,\s*1\s*)*)?\]"


def structured_rig(monkeypatch: pytest.MonkeyPatch, padded: bool = False, **limits: Any) -> Rig:
    made = rig(padded, replace(LIMITS, **limits), monkeypatch)
    small = tokenizer()
    assert small.vocab_size <= VOCAB
    model = replace(made.core.model, eos_ids=frozenset({EOS}))
    return replace(made, core=GenerationCore(model, made.core.runner, made.core.scheduler.limits, small))


def work(count: int) -> tuple[list[list[int]], list[SamplingParams]]:
    params = [
        SamplingParams(temperature=i % 2, seed=i, max_tokens=6, structured_outputs=FORMS[i % 4] or None)  # type: ignore[arg-type]
        for i in range(count)
    ]
    return [[2 + (7 * i + k) % 50 for k in range(3 + 5 * i)] for i in range(count)], params


def essence(results: Any) -> list[Any]:
    return [[(c.text, tuple(c.token_ids), c.finish_reason) for c in output.outputs] for output in results]


@pytest.mark.parametrize(("padded", "limits"), [(True, {}), (False, {"max_seqs": 2, "max_tokens": 24})], ids=str)
def test_outputs_fit_and_do_not_depend_on_the_batch(
    monkeypatch: pytest.MonkeyPatch, padded: bool, limits: dict[str, Any]
) -> None:
    prompts, params = work(6)
    alone = [run(structured_rig(monkeypatch).core, [p], [s])[0] for p, s in zip(prompts, params, strict=True)]
    core = structured_rig(monkeypatch, padded, **limits).core
    assert core.runner.runs_ahead(core.scheduler.schedule())
    together = run(core, prompts, params)
    assert essence(together) == essence(alone)
    for output, each in zip(together, params, strict=True):
        (completion,) = output.outputs
        if each.structured_outputs is not None and completion.finish_reason == "stop":
            assert re.fullmatch(FITS, completion.text), completion.text
    assert sum(output.outputs[0].finish_reason == "stop" for output in together) >= 2


@pytest.mark.parametrize("slots", [0, 60])
def test_preempted_requests_go_on(monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    prompts, params = work(4)
    expected = run(structured_rig(monkeypatch).core, prompts, params)
    core = structured_rig(monkeypatch, swap_slots=slots).core
    assert essence(run(core, prompts, params, preempt_every=3)) == essence(expected)
    assert core.scheduler.requests.preemptions > 0


def test_a_grammar_that_nothing_continues_ends_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = SamplingParams(temperature=0, max_tokens=9, structured_outputs={"regex": "ab(Ω|Ψ)"})  # type: ignore[arg-type]
    good = SamplingParams(temperature=0, max_tokens=9, structured_outputs={"regex": "ab(c|d)"})  # type: ignore[arg-type]
    core = structured_rig(monkeypatch).core
    failed, fine = run(core, [[5, 6], [5, 6]], [dead, good])
    assert failed.error is not None
    assert "no token" in failed.error
    assert (failed.outputs[0].finish_reason, failed.outputs[0].text) == ("error", "ab")
    assert (fine.error, fine.outputs[0].finish_reason) == (None, "stop")
    assert core.scheduler.kv.pool.held == 0
    assert not core._masks


@pytest.mark.parametrize("ahead", [False, True])
def test_masks_are_made_after_the_launch(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host waits for the step before only when the next one is on the device, and makes masks only then, also
    where nothing is launched ahead."""
    core = structured_rig(monkeypatch).core
    core._ahead = ahead
    order: list[str] = []
    runner: Any = core.runner
    step, fill = runner._step, core._masks._fill

    def launched(*args: Any) -> Any:
        order.append("step")
        return step(*args)

    def filled(*args: Any) -> Any:
        order.append("masks")
        return fill(*args)

    monkeypatch.setattr(runner, "_step", launched)
    monkeypatch.setattr(core._masks, "_fill", filled)
    form: Any = {"regex": "[a-c]{5}"}
    core.add("0", Input([4, 5]), SamplingParams(temperature=0, max_tokens=8, structured_outputs=form))
    for _ in itertools.takewhile(lambda _: core.unfinished, itertools.count()):
        core.step()
    pairs = [tuple(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert pairs == [("step", "masks")] * len(pairs), order
