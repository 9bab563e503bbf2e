"""Small schedulers and requests, and the stand-in for a model that drives them."""

from __future__ import annotations

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
    """Stands in for the model: a function of the tokens before, which sometimes is the stop token."""
    return (sum(request.tokens(0, request.total)) * 7 + request.total) % 11


def step(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    scheduler.update(plan, {part.request: next_token(part.request) for part in plan.slices if part.samples})
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
