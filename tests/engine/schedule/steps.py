"""Small schedulers and requests, and the stand-in for a model that drives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.params import SamplingParams
from engine.schedule.limits import Limits
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler

STOP = 0
IGNORE = SamplingParams(ignore_eos=True)


def limits(**changes: Any) -> Limits:
    plain: dict[str, Any] = {"max_tokens": 16, "max_seqs": 8, "blocks": 64, "block_size": 4}
    return Limits(**(plain | changes))


def request(index: int, prompt: list[int], max_output: int = 4, **fields: Any) -> Request:
    return Request(
        index=index, prompt=prompt, params=fields.pop("params", SamplingParams()), max_output=max_output, **fields
    )


def next_token(request: Request) -> int:
    """Stands in for the model: a function of the tokens before and of the child, sometimes the stop token."""
    return next_tokens(request, 1)[0]


def next_tokens(request: Request, count: int) -> list[int]:
    """What it would draw one after the other."""
    total, size, drawn = sum(request.tokens(0, request.total)), request.total, []
    for _ in range(count):
        drawn.append((total * 7 + size + request.child) % 11)
        total, size = total + drawn[-1], size + 1
    return drawn


def guess(request: Request, count: int, right: int) -> list[int]:
    """Drafts of a request's next tokens: the first ``right`` are what will be drawn, the others are not."""
    return [token if i < right else token + 1 for i, token in enumerate(next_tokens(request, count))]


def verify(plan: StepPlan) -> tuple[dict[Request, int], dict[Request, list[int]]]:
    """The tokens that a runner would draw for a plan, and the drafts that it would accept."""
    tokens, accepted = {}, {}
    for part in plan.slices:
        if part.samples:
            drafts = plan.drafts.get(part.request, ())
            drawn = next_tokens(part.request, len(drafts) + 1)
            right = next((i for i, draft in enumerate(drafts) if draft != drawn[i]), len(drafts))
            tokens[part.request] = drawn[right]
            if drafts:
                accepted[part.request] = drawn[:right]
    return tokens, accepted


def step(scheduler: Scheduler, drafts: Mapping[Request, Sequence[int]] | None = None) -> StepPlan:
    plan = scheduler.schedule(drafts or {})
    scheduler.update(plan, *verify(plan))
    scheduler.check()
    return plan


def run(scheduler: Scheduler, most: int = 2000) -> list[StepPlan]:
    plans = []
    while scheduler.unfinished:
        plans.append(step(scheduler))
        assert len(plans) < most, "the scheduler makes no progress"
    return plans


def spans(plan: StepPlan) -> list[tuple[int, int, int, int]]:
    return [(part.request.index, part.request.child, part.start, part.stop) for part in plan.slices]
