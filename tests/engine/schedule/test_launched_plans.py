"""Plans launched before the last one's tokens are known, on a device that checks what they read."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schedule.plan import StepPlan
from engine.schedule.request import PENDING, Request
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.device import Device
from tests.engine.schedule.steps import STOP, limits, next_token, request, run


def requests(seed: int, count: int) -> list[Request]:
    draw = random.Random(seed)
    beginnings = [[draw.randrange(3) for _ in range(8)] for _ in range(2)]
    return [
        request(
            index,
            draw.choice(beginnings)[: draw.randint(1, 8)] + [draw.randrange(3) for _ in range(draw.randint(0, 8))],
            draw.randint(1, 10),
            stop_ids=frozenset({STOP} if draw.random() < 0.5 else ()),
        )
        for index in range(count)
    ]


def launch(plan: StepPlan, device: Device, memory: dict[Request, int]) -> dict[Request, int]:
    """Execute the plan with the tokens that the device itself drew; returns the tokens drawn now."""
    fed = [part.request for part in plan.slices if part.request.pending]
    for one in fed:
        one.output[-1] = memory[one]
    device.execute(plan)
    drawn = {part.request: next_token(part.request) for part in plan.slices if part.samples}
    for one in fed:
        one.output[-1] = PENDING
    memory |= drawn
    return drawn


def run_ahead(scheduler: Scheduler, device: Device) -> None:
    """Plan and launch each step before the one before it is booked."""
    memory: dict[Request, int] = {}
    launched: tuple[StepPlan, dict[Request, int]] | None = None
    for _ in range(3000):
        plan = scheduler.schedule()
        drawn = launch(plan, device, memory)
        scheduler.advance(plan)
        if launched is not None:
            scheduler.update(*launched)
        scheduler.check()
        launched = (plan, drawn) if plan.slices else None
        if launched is None and not scheduler.unfinished:
            return
    raise AssertionError("the scheduler makes no progress")


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    changes=st.fixed_dictionaries(
        {
            "blocks": st.integers(7, 14),
            "max_tokens": st.integers(2, 30),
            "max_seqs": st.integers(1, 6),
            "prefix_caching": st.booleans(),
            "policy": st.sampled_from(["fcfs", "longest_first", "prefix_grouped"]),
            "admission_control": st.booleans(),
            "swap_slots": st.sampled_from([0, 4, 60]),
            "balance": st.sampled_from([0, 1]),
        }
    ),
)
def test_outputs_are_those_of_one_request_after_the_other(seed: int, changes: dict[str, Any]) -> None:
    expected, got = requests(seed, 12), requests(seed, 12)
    for one in expected:
        alone = Scheduler(limits())
        alone.add(one)
        run(alone)
    scheduler, device = Scheduler(limits(**changes)), Device(4)
    for one in got:
        scheduler.add(one)
    run_ahead(scheduler, device)
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
        assert scheduler.preemptions > 2
        totals[slots] = (scheduler.recomputed_tokens > 0, device.copied > 0)
        assert scheduler.kv.swapped_out == scheduler.kv.swapped_in == device.copied / 2
    assert totals == {0: (True, False), 60: (False, True)}
