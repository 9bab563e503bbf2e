"""Drafts: what a step takes of them, and what becomes of those that are right and wrong."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.crowd import CHANGES, requests, run_alone
from tests.engine.schedule.device import Device
from tests.engine.schedule.steps import guess, limits, next_tokens, request, step, verify


def started(*work: Request, **changes: Any) -> Scheduler:
    """A scheduler whose requests have their prompts computed and one token drawn."""
    scheduler = Scheduler(limits(**({"draft_room": 100} | changes)))
    for one in work:
        scheduler.add(one)
    step(scheduler)
    assert all(len(one.output) == 1 for one in work)
    return scheduler


@pytest.mark.parametrize("right", range(5))
def test_right_drafts_and_the_token_behind_them_are_booked(right: int) -> None:
    one = request(0, [1, 2, 3], 12)
    scheduler = started(one)
    expected = one.output + next_tokens(one, right + 1)
    plan = step(scheduler, {one: guess(one, 4, right)})
    assert (plan.tokens, len(plan.drafts[one])) == (5, 4)
    assert one.output == expected
    assert one.computed == one.total - 1


@pytest.mark.parametrize(
    ("changes", "max_output", "taken"),
    [
        ({}, 20, 6),
        ({"draft_room": 4}, 20, 3),
        ({"max_tokens": 5}, 20, 4),
        ({}, 5, 3),  # one token is there, and one is drawn behind the drafts
        ({}, 2, 0),
        ({"draft_room": 0}, 20, 0),
        ({"blocks": 2}, 20, 0),  # the prompt and the token drawn fill a block of four, the other is for the next step
        ({"blocks": 3}, 20, 4),
    ],
)
def test_drafts_stay_within_every_bound(changes: dict[str, int], max_output: int, taken: int) -> None:
    one = request(0, [1, 2, 3], max_output)
    scheduler = started(one, **changes)
    plan = scheduler.schedule({one: guess(one, 6, 6)})
    assert len(plan.drafts.get(one, ())) == taken
    assert plan.slices[0].stop == one.total + taken


def test_drafts_leave_a_block_for_each_running_request() -> None:
    """Of eight blocks three requests hold one each, and may need three more in the next step: two are for drafts."""
    work = [request(index, [1 + index, 2, 3], 20) for index in range(3)]
    scheduler = started(*work, blocks=8, prefix_caching=False)
    plan = step(scheduler, {one: guess(one, 4, 0) for one in work})
    assert [len(plan.drafts.get(one, ())) for one in work] == [4, 4, 0]
    for _ in range(3):  # up to eight tokens each
        step(scheduler)
    assert scheduler.requests.preemptions == 0


def test_a_token_that_ends_the_request_drops_what_is_drawn_behind_it() -> None:
    one = request(0, [1, 2, 3], 12)
    tokens = next_tokens(one, 8)
    one.stop_ids = frozenset({tokens[3]})
    first = tokens.index(tokens[3])
    scheduler = started(one)
    step(scheduler, {one: tokens[1:7]})
    assert (one.output, one.finish_reason) == (tokens[: first + 1], "stop")
    assert not scheduler.unfinished
    assert scheduler.kv.pool.held == 0


def test_without_drafts_plans_hold_none() -> None:
    one = request(0, [1, 2, 3], 12)
    scheduler = started(one)
    plan = scheduler.schedule()
    assert not plan.drafts
    assert plan.rows(plan.slices[0]) == 1
    assert plan.token_ids(plan.slices[0]) == one.output


def run_drafted(scheduler: Scheduler, device: Device, draw: random.Random, forced: float) -> int:
    """Launch, advance and book steps with drafts of any worth; preempt some requests while their step is under way."""
    taken = 0
    for _ in range(3000):
        if not scheduler.unfinished:
            return taken
        decoding = [r for r in scheduler.running if r.total - r.computed == 1]
        plan = scheduler.schedule({r: guess(r, draw.randint(0, 6), draw.randint(0, 6)) for r in decoding})
        taken += sum(map(len, plan.drafts.values()))
        if plan.slices:
            device.execute(plan)
        drawn = verify(plan)
        scheduler.advance(plan)
        if forced and scheduler.running and draw.random() < forced:
            scheduler.requests.preempt(draw.choice(scheduler.running))
            forced *= 0.98
        scheduler.update(plan, *drawn)
        scheduler.check()
    raise AssertionError("the scheduler makes no progress")


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    forced=st.sampled_from([0.0, 0.5]),
    changes=st.fixed_dictionaries(CHANGES | {"draft_room": st.integers(2, 40)}),
)
def test_outputs_are_those_without_drafts(seed: int, forced: float, changes: dict[str, Any]) -> None:
    expected, got = run_alone(requests(seed, 12)), requests(seed, 12)
    scheduler, device = Scheduler(limits(**changes)), Device(4)
    for one in got:
        scheduler.add(one)
    run_drafted(scheduler, device, random.Random(seed), forced)
    assert [one.output for one in got] == [one.output for one in expected]
    assert [one.finish_reason for one in got] == [one.finish_reason for one in expected]
    assert scheduler.kv.pool.held == scheduler.kv.slots.held == 0


def test_drafts_save_steps() -> None:
    """The trace above would pass if no draft were ever taken."""
    steps = {}
    for right in (0, 6):
        work = [request(index, [index + 1] * 5, 14) for index in range(4)]
        scheduler = Scheduler(limits(draft_room=100, max_tokens=100))
        for one in work:
            scheduler.add(one)
        steps[right] = 0
        while scheduler.unfinished:
            decoding = [r for r in scheduler.running if r.total - r.computed == 1]
            step(scheduler, {r: guess(r, 6, right) for r in decoding})
            steps[right] += 1
    assert steps == {0: 14, 6: 3}  # one token from the prompt, then seven from each step
