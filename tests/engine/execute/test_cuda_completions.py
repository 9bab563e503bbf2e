"""n > 1 on the runner of CUDA devices, interpreted: rows that are forked beside the step, blocks copied before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine import SamplingParams
from engine.execute import shared_blocks
from engine.outputs import RequestOutput
from engine.schedule.request import Request
from tests.engine.execute.test_cuda_runner import LIMITS, VOCAB, drafting_rig, rig, run
from tests.engine.execute.test_cuda_sampling import special_rig
from tests.engine.structured.test_cuda import structured_rig

N = 3
LENGTHS = (1, 16, 20, 47)
KINDS: list[dict[str, Any]] = [
    {"temperature": 0.9, "logprobs": 1},
    {"temperature": 1.1, "top_k": 9, "prompt_logprobs": 0},
    {"temperature": 0.8, "repetition_penalty": 1.4, "logit_bias": {3: 1.0}, "logprobs": 0},
    {"temperature": 0.7, "top_p": 0.8, "min_tokens": 3, "stop_token_ids": [5, 6, 7, 8]},
]


def work(start: int = 0) -> tuple[list[list[int]], list[SamplingParams]]:
    prompts = [[(start + 7 * k * k + 3 * length) % VOCAB for k in range(length)] for length in LENGTHS]
    params = [SamplingParams(n=N, seed=10 * i, max_tokens=6, **kind) for i, kind in enumerate(KINDS)]
    return prompts, params


def assert_same(outputs: list[RequestOutput], expected: list[RequestOutput]) -> None:
    """Log-probabilities to within rounding: on the CPU torch's products depend on the number of rows."""
    for one, other in zip(outputs, expected, strict=True):
        assert [(c.token_ids, c.finish_reason) for c in one.outputs] == [
            (c.token_ids, c.finish_reason) for c in other.outputs
        ]
        assert list(scores(one)) == list(scores(other))
        assert list(scores(one).values()) == pytest.approx(list(scores(other).values()), abs=1e-4)


def scores(output: RequestOutput) -> dict[Any, float]:
    """All log-probabilities, by completion (-1: the prompt), position and token."""
    rows = [(i, at, row) for i, c in enumerate(output.outputs) for at, row in enumerate(c.logprobs or ())]
    rows += [(-1, at, row or {}) for at, row in enumerate(output.prompt_logprobs or ())]
    return {(index, at, token): one.logprob for index, at, row in rows for token, one in sorted(row.items())}


def apart(outputs: list[RequestOutput]) -> list[Any]:
    """Outputs of the same completions as requests of their own, put together again."""
    groups = [outputs[i : i + N] for i in range(0, len(outputs), N)]
    return [replace(group[0], outputs=tuple(one.outputs[0] for one in group)) for group in groups]


def separate(prompts: list[list[int]], params: list[SamplingParams]) -> tuple[list[list[int]], list[SamplingParams]]:
    each = [replace(p, n=1, seed=(p.seed or 0) + i) for p in params for i in range(N)]
    return [prompt for prompt in prompts for _ in range(N)], each


@pytest.mark.parametrize(
    ("padded", "changes", "preempt_every"),
    [
        (False, {}, 0),
        (True, {}, 0),
        (True, {"prefix_caching": False, "max_seqs": 2}, 0),
        (True, {"prefix_caching": False, "max_tokens": 24, "max_seqs": 5}, 0),
        (True, {"prefix_caching": False}, 2),
        (True, {"prefix_caching": False, "swap_slots": 100}, 2),
    ],
    ids=["exact", "padded", "two seats", "chunks", "recompute", "swap"],
)
def test_completions_are_those_of_their_seeds(
    padded: bool, changes: dict[str, Any], preempt_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = apart(run(special_rig(False, LIMITS, monkeypatch).core, *separate(*work())))
    made = special_rig(padded, replace(LIMITS, **{"max_seqs": 16, **changes}), monkeypatch)
    outputs = run(made.core, *work(), preempt_every)
    assert_same(outputs, expected)
    assert any(len({tuple(one.token_ids) for one in output.outputs}) > 1 for output in outputs)
    stats = made.core.stats()
    assert made.core.scheduler.kv.pool.held == 0
    if not preempt_every and "max_seqs" not in changes:
        generated = sum(len(one.token_ids) - 1 for output in outputs for one in output.outputs)
        ended = sum(one.finish_reason == "stop" for output in outputs for one in output.outputs)
        assert sum(LENGTHS) + generated <= stats.computed_tokens <= sum(LENGTHS) + generated + ended
    assert (stats.preemptions > 0) == (preempt_every > 0)


def test_cascade_attention_over_the_blocks_of_one_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured steps see block tables that only grow: a copy takes a place that was empty."""
    prompt = [(5 * k * k + k) % VOCAB for k in range(270)]
    params = SamplingParams(n=4, seed=3, max_tokens=4, temperature=1.0, ignore_eos=True)
    limits = replace(LIMITS, prefix_caching=False)
    shared = rig(True, limits, monkeypatch)
    monkeypatch.setattr(shared_blocks, "LEAST", 2)
    (output,) = run(shared.core, [prompt], [params])
    each = [replace(params, n=1, seed=3 + i) for i in range(4)]
    alone = run(rig(True, limits, monkeypatch, cascade=False).core, [prompt] * 4, each)
    assert [one.token_ids for one in output.outputs] == [one.outputs[0].token_ids for one in alone]
    assert any(shape.shared for shape in shared.shapes)


def test_drafts_for_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft model, whose cache is copied as well: it drafts for itself, so every draft is right."""
    prompts, _ = work(2)
    params = [SamplingParams(n=N, seed=7 * i, max_tokens=8, temperature=0.9, ignore_eos=True) for i in range(4)]
    limits = replace(LIMITS, draft_room=100, max_seqs=16, prefix_caching=False)
    plain = run(rig(True, limits, monkeypatch).core, prompts, params)
    made = drafting_rig(limits, monkeypatch)
    assert [o.outputs for o in run(made.core, prompts, params)] == [o.outputs for o in plain]
    stats = made.core.stats()
    assert stats.accepted_tokens == stats.drafted_tokens > 15


class FromTheStart:
    """Drafts for a prompt of which one token is left."""

    def drafts(self, running: list[Request]) -> dict[Request, list[int]]:
        return {r: [1, 2] for r in running if r.total - r.computed == 1 and not r.output}

    def waits(self, running: list[Request]) -> bool:
        return False

    def learn(self, plan: Any, accepted: Any) -> None:
        pass


def test_the_first_of_several_rows_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slice that ends the prompt may go on over drafts."""
    prompts = [[(3 * k) % VOCAB for k in range(24)]]
    params = [SamplingParams(n=4, seed=5, max_tokens=4, logprobs=1, frequency_penalty=0.3, ignore_eos=True)]
    limits = replace(LIMITS, max_tokens=23, draft_room=100)
    plain = run(special_rig(True, limits, monkeypatch).core, prompts, params)
    made = special_rig(True, limits, monkeypatch)
    made.core._proposer = FromTheStart()  # type: ignore[assignment]
    assert_same(run(made.core, prompts, params), plain)
    assert made.core.stats().drafted_tokens == 2


@pytest.mark.parametrize("padded", [False, True], ids=["exact", "padded"])
def test_grammars_of_completions(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(n=4, seed=2, temperature=1.5, max_tokens=6, structured_outputs={"regex": "[a-c]{2,5}"})  # type: ignore[arg-type]
    prompt = [2 + (3 * k) % 50 for k in range(21)]
    (output,) = run(structured_rig(monkeypatch, padded).core, [prompt], [params])
    alone = run(structured_rig(monkeypatch).core, [prompt] * 4, [replace(params, n=1, seed=2 + i) for i in range(4)])
    assert [one.text for one in output.outputs] == [one.outputs[0].text for one in alone]
    assert len({one.text for one in output.outputs}) > 1
