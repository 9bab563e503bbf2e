"""Plans launched before the last one's tokens are known, on a device that checks what they read."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schedule.plan import StepPlan
from engine.schedule.request import PENDING, Request
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.crowd import CHANGES, requests, run_alone
from tests.engine.schedule.device import Device
from tests.engine.schedule.steps import limits, next_token, request


def launch(plan: StepPlan, device: Device, memory: dict[Request, int]) -> dict[Request, int]:
    """Execute the plan with the tokens that the device itself drew; returns the tokens drawn now."""
    fed = [part.request for part in plan.slices if part.request.pending]
    for one in fed:
        one.output[-1] = memory[one]
    if plan.slices:  # others are not launched
        device.execute(plan)
    drawn = {part.request: next_token(part.request) for part in plan.slices if part.samples}
    for one in fed:
        one.output[-1] = PENDING
    memory |= drawn
    return drawn


def run_ahead(scheduler: Scheduler, device: Device, forced: float = 0.0) -> None:
    """Plan and launch each step before the one before it is booked; preempt with a probability that falls."""
    memory: dict[Request, int] = {}
    draw = random.Random(0)
    launched: tuple[StepPlan, dict[Request, int]] | None = None
    for _ in range(3000):
        plan = scheduler.schedule()
        drawn = launch(plan, device, memory)
        scheduler.advance(plan)
        if launched is not None:
            scheduler.update(*launched)
        scheduler.check()
        launched = (plan, drawn) if plan.slices else None
        if forced and scheduler.running and draw.random() < forced:
            scheduler.requests.preempt(draw.choice(scheduler.running))  # its step is in flight
            forced *= 0.98
        if launched is None and not scheduler.unfinished:
            return
    raise AssertionError("the scheduler makes no progress")


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    forced=st.sampled_from([0.0, 0.5]),
    changes=st.fixed_dictionaries(CHANGES),
)
def test_outputs_are_those_of_one_request_after_the_other(seed: int, forced: float, changes: dict[str, Any]) -> None:
    expected, got = run_alone(requests(seed, 12)), requests(seed, 12)
    scheduler, device = Scheduler(limits(**changes)), Device(4)
    for one in got:
        scheduler.add(one)
    run_ahead(scheduler, device, forced)
    assert [one.output for one in got] == [one.output for one in expected]
    assert scheduler.kv.pool.held == scheduler.kv.slots.held == 0


def test_swap_moves_blocks_and_computes_nothing_twice() -> None:
    """The trace above would pass if nothing were ever preempted; this one is, and copies are made."""
    totals = {}
    for slots in (0, 60):
        work = [request(index, [index + 1] * 9, 12) for index in range(6)]
        scheduler, device = Scheduler(limits(blocks=12, swap_slots=slots, prefix_caching=False)), Device(4)
        for one in work:
            scheduler.add(one)
        run_ahead(scheduler, device)
        assert scheduler.requests.preemptions > 2
        totals[slots] = (scheduler.requests.recomputed_tokens > 0, device.copied > 0)
        assert scheduler.kv.swapped_out == scheduler.kv.swapped_in == device.copied / 2
    assert totals == {0: (True, False), 60: (False, True)}
