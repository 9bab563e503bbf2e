"""Every sampling field on the runner of CUDA devices, steps launched ahead, against the reference sampler."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine import SamplingParams
from engine.execute import logits_processing, logits_state
from engine.outputs import RequestOutput
from engine.schedule.limits import Limits
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request
from engine.text.bad_words import BadWords
from kernels.cuda import sample as cuda
from kernels.cuda.bitmask import apply_bitmask
from kernels.cuda.drawn_tokens import add_drawn_tokens
from kernels.cuda.process_logits import process_logits
from kernels.sample import SamplingRows
from tests.engine.execute.test_cuda_runner import LIMITS, VOCAB, OneLayer, Rig, rig, run
from tests.engine.reference_sampler import draw
from tests.engine.sampler_requests import packed

Work = tuple[list[list[int]], list[SamplingParams]]


class Numbers:
    """A tokenizer of numbers: text is ids with spaces between them."""

    def encode_batch(self, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]


def special_rig(padded: bool, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = rig(padded, limits, monkeypatch)
    tokenizer: Any = Numbers()
    made.core._intake._bad_words = BadWords(tokenizer, VOCAB)
    return made


def work(count: int) -> Work:
    """Requests that mix all fields; presence penalties below 0 make outputs repeat themselves: bad words bite."""
    draw = random.Random(8)

    def maybe(value: Any, plain: Any) -> Any:
        return value if draw.random() < 0.5 else plain

    def some(count: int) -> list[int]:
        return [draw.randrange(VOCAB) for _ in range(count)]

    prompts = [some(draw.randint(1, 30)) for _ in range(count)]
    params = [
        SamplingParams(
            max_tokens=draw.randint(2, 9),
            seed=i,
            stop_token_ids=some(3),
            min_tokens=maybe(2, 0),
            temperature=draw.choice([0.0, 0.7, 1.2]),
            top_k=maybe(20, 0),
            top_p=maybe(0.9, 1.0),
            min_p=maybe(0.01, 0.0),
            repetition_penalty=maybe(1.3, 1.0),
            presence_penalty=maybe(-1.5, 0.0),
            frequency_penalty=maybe(draw.uniform(-1.5, 1.5), 0.0),
            logit_bias=maybe(dict.fromkeys(some(3), 4.0), None),
            allowed_token_ids=maybe(some(25), None),
            bad_words=maybe([f"{a} {b}" for a in some(7) for b in some(9)] + [str(some(1)[0])] + ["3 3 3"], None),
            logprobs=maybe(2, None),
        )
        for i in range(count)
    ]
    return prompts, params


def expected(
    model: OneLayer, index: int, prompt: list[int], params: SamplingParams, grammar: set[int] | None = None
) -> list[int]:
    """The tokens that the reference draws from whole sequences, one after the other."""
    words = tuple(tuple(map(int, word.split())) for word in params.bad_words or ())
    stop_ids = frozenset(params.stop_token_ids or ())
    one = Request(index, prompt, params, 99, stop_ids=stop_ids, seed=params.seed or 0, bad_words=words)
    assert params.max_tokens is not None
    while len(one.output) < params.max_tokens:
        one.output.append(draw(model.next_logits(prompt + one.output).numpy(), one, grammar))
        if one.output[-1] in stop_ids and len(one.output) >= params.min_tokens:
            break
    return one.output


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    assert all(output.error is None for output in outputs)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize(
    ("padded", "changes", "preempt_every"),
    [
        (False, {}, 0),
        (True, {"max_seqs": 3}, 0),
        (True, {"max_tokens": 24}, 0),
        (True, {"prefix_caching": False}, 2),
        (True, {"prefix_caching": False, "swap_slots": 100}, 2),
    ],
    ids=["exact", "three", "chunks", "recompute", "swap"],
)
def test_tokens_equal_the_reference(
    padded: bool, changes: dict[str, Any], preempt_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, params = work(12)
    made = special_rig(padded, replace(LIMITS, **changes), monkeypatch)
    outputs = run(made.core, prompts, params, preempt_every)
    wanted = [expected(made.model, i, *each) for i, each in enumerate(zip(prompts, params, strict=True))]
    assert tokens(outputs) == wanted
    if preempt_every:
        assert made.core.stats().preemptions > 3
    for output, each in zip(outputs, params, strict=True):
        scored = output.outputs[0].logprobs
        assert (scored is None) == (each.logprobs is None)
        for step, token in zip(scored or (), output.outputs[0].token_ids, strict=scored is not None):
            assert token in step


def test_steps_are_launched_before_the_tokens_of_the_last_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with every field are planned while their last token is pending, and read nothing from the host."""
    prompts, params = work(4)
    params = [replace(each, stop_token_ids=(), min_tokens=0, max_tokens=5) for each in params]
    made = special_rig(True, LIMITS, monkeypatch)
    pending = 0
    launch = made.core.runner.launch

    def watch(plan: Any, masks: Any = None) -> Any:
        nonlocal pending
        pending += sum(part.request.pending for part in plan.slices)
        return launch(plan, masks)

    monkeypatch.setattr(made.core.runner, "launch", watch)
    outputs = run(made.core, prompts, params)
    assert pending == 4 * 4, "every step but a request's first one"
    assert tokens(outputs) == [
        expected(made.model, i, *each) for i, each in enumerate(zip(prompts, params, strict=True))
    ]


def on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's kernels in place of the CPU's, from the logits to the token."""

    def fused(logits: torch.Tensor, rows: SamplingRows, filtered: bool) -> torch.Tensor:
        return cuda.sample(logits, rows, filtered, ranked=False).tokens

    monkeypatch.setattr(logits_processing, "draw", fused)
    monkeypatch.setattr(logits_processing, "process_logits", process_logits)
    monkeypatch.setattr(logits_processing, "apply_bitmask", apply_bitmask)
    monkeypatch.setattr(logits_state, "add_drawn_tokens", add_drawn_tokens)


def test_the_kernels_of_the_device_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_device(monkeypatch)
    prompts, params = work(6)
    made = special_rig(True, LIMITS, monkeypatch)
    wanted = [expected(made.model, i, *each) for i, each in enumerate(zip(prompts, params, strict=True))]
    assert tokens(run(made.core, prompts, params)) == wanted


@pytest.mark.parametrize("device", [False, True], ids=["host", "device"])
def test_masks_of_grammars_reach_the_draw(device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed masks given to ``launch``: even tokens only for some requests, nothing changed for the others."""
    if device:
        on_the_device(monkeypatch)
    even = set(range(0, VOCAB, 2))
    prompts, params = work(4)
    params = [replace(each, allowed_token_ids=None, bad_words=None, max_tokens=4, stop_token_ids=()) for each in params]
    made = special_rig(True, LIMITS, monkeypatch)
    launch = made.core.runner.launch

    def masked(plan: StepPlan, masks: Any = None) -> Any:
        chosen = [part.request for part in plan.slices if part.samples and part.request.index % 2]
        return launch(plan, lambda: dict.fromkeys(chosen, packed(even, VOCAB)))

    monkeypatch.setattr(made.core.runner, "launch", masked)
    outputs = tokens(run(made.core, prompts, params))
    for i, each in enumerate(zip(prompts, params, strict=True)):
        assert outputs[i] == expected(made.model, i, *each, grammar=even if i % 2 else None)
    assert all(set(outputs[i]) <= even for i in (1, 3))


def test_state_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the state are those of requests that run: many requests after one another take no more than at once."""
    prompts, params = work(20)
    params = [
        replace(each, presence_penalty=1.0, logit_bias={1: 1.0}, max_tokens=2, bad_words=["5 6"]) for each in params
    ]
    made = special_rig(True, replace(LIMITS, max_seqs=3), monkeypatch)
    run(made.core, prompts, params)
    state = made.core.runner._processor._state  # type: ignore[attr-defined]
    assert state.offsets.rows.shape[0] <= 4
    assert state.occurrences.rows.shape[0] <= 8
    assert state.history.rows.shape[0] <= 4
