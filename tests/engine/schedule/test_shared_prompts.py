"""Completions of one prompt: who computes it, who copies which block, and what is given up for whom."""

from __future__ import annotations

from typing import Any

import pytest

from engine.params import SamplingParams
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request, Status
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.device import Device
from tests.engine.schedule.steps import IGNORE, limits, next_tokens, request, spans, step, verify

PROMPT = [2, 1, 2, 1, 1, 2, 2, 1, 1, 2]  # two blocks and a half


def family(n: int, outputs: int = 4, prompt: list[int] = PROMPT, index: int = 0, **fields: Any) -> list[Request]:
    params = SamplingParams(n=n, ignore_eos=True)
    return [request(index, prompt, outputs, child=i, params=params, **fields) for i in range(n)]


def run(scheduler: Scheduler, requests: list[Request]) -> list[StepPlan]:
    """Queue the requests and run them on a device that checks what is read; outputs are those of each alone."""
    device, plans = Device(scheduler.limits.block_size), []
    for one in requests:
        scheduler.add(one)
    while scheduler.unfinished:
        plan = scheduler.schedule()
        assert plan.slices, "the scheduler makes no progress"
        device.execute(plan)
        scheduler.update(plan, *verify(plan))
        scheduler.check()
        plans.append(plan)
    for one in requests:
        if one.finish_reason != "abort":
            alone = request(one.index, one.prompt, child=one.child)
            assert one.output == next_tokens(alone, one.max_output)
    assert scheduler.kv.pool.held == 0
    return plans


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("length", [1, 3, 4, 8, 10])
def test_a_prompt_is_computed_once_and_its_last_block_copied_for_all_but_one(length: int, caching: bool) -> None:
    scheduler = Scheduler(limits(prefix_caching=caching))
    plans = run(scheduler, family(5, 3, PROMPT[:length]))
    assert spans(plans[0]) == [(0, 0, 0, length), *((0, child, length, length) for child in range(1, 5))]
    assert {child.child: leader.child for child, leader in plans[0].forks.items()} == dict.fromkeys(range(1, 5), 0)
    assert [plan.tokens for plan in plans] == [length, 5, 5]
    assert [len(plan.copies) for plan in plans] == [0, 4 if length % 4 else 0, 0]
    assert len({source for source, _ in plans[1].copies}) == bool(length % 4)


@pytest.mark.parametrize("caching", [True, False])
def test_those_that_find_no_seat_compute_one_token_of_the_prompt(caching: bool) -> None:
    """Also when all that had computed it have ended: the prompt is kept for those that have not started."""
    scheduler = Scheduler(limits(prefix_caching=caching, max_seqs=2))
    plans = run(scheduler, family(6, 3))
    assert [spans(plan)[0] for plan in plans[::3]] == [(0, 0, 0, 10), (0, 2, 9, 10), (0, 4, 9, 10)]
    assert sum(plan.tokens for plan in plans) == 10 + 4 + 6 * 2


def test_a_whole_last_block_is_copied_for_those_that_start_late() -> None:
    """They write the key of the last token anew, and nobody writes into what others read."""
    scheduler = Scheduler(limits(prefix_caching=False, max_seqs=1))
    plans = run(scheduler, family(3, 2, PROMPT[:8]))
    assert [spans(plan)[0][2:] for plan in plans] == [(0, 8), (8, 9), (7, 8), (8, 9), (7, 8), (8, 9)]
    assert [len(plan.copies) for plan in plans] == [0, 0, 1, 0, 1, 0]


def test_others_pass_while_a_prompt_is_computed_in_chunks() -> None:
    scheduler = Scheduler(limits(max_tokens=4))
    work = [*family(3, 2), request(1, [1], 1)]
    plans = [spans(plan) for plan in run(scheduler, work)]
    assert plans[:2] == [[(0, 0, 0, 4)], [(0, 0, 4, 8)]]
    assert plans[2] == [(0, 0, 8, 10), (0, 1, 10, 10), (0, 2, 10, 10), (1, 0, 0, 1)]


def test_a_step_that_is_full_has_room_for_those_that_compute_nothing() -> None:
    scheduler = Scheduler(limits(max_tokens=10))
    plans = run(scheduler, family(4, 2))
    assert len(spans(plans[0])) == 4


def test_when_the_first_is_aborted_the_next_one_computes_the_prompt() -> None:
    scheduler = Scheduler(limits(max_tokens=4, prefix_caching=False))
    work = family(3, 2)
    for one in work:
        scheduler.add(one)
    step(scheduler)
    scheduler.finish(work[0], "abort")
    assert spans(step(scheduler)) == [(0, 1, 0, 4)]
    scheduler.finish(work[2], "abort")
    while scheduler.unfinished:
        step(scheduler)
    assert (len(work[1].output), scheduler.kv.pool.held) == (2, 0)


def test_a_prompt_that_waits_is_given_up_before_anybody_is_preempted() -> None:
    """It holds three blocks for those who have not started; a request that came later needs all but one of the six."""
    scheduler = Scheduler(limits(blocks=6, prefix_caching=False, max_seqs=1, policy="priority"))
    work = family(3, 2, priority=1)
    for one in work:
        scheduler.add(one)
    step(scheduler)
    large = request(9, [1] * 3, 17, params=IGNORE)
    scheduler.add(large)
    step(scheduler)
    assert (work[0].status, scheduler.kv.pool.held) == (Status.FINISHED, 3)
    while not large.finish_reason:
        assert spans(step(scheduler))[0][0] == 9
    assert scheduler.kv.pool.held == 0
    assert [spans(step(scheduler)) for _ in range(3)] == [[(0, 1, 0, 10)], [(0, 1, 10, 11)], [(0, 2, 9, 10)]]
    assert scheduler.requests.preemptions == 0


def test_two_prompts_that_are_alike_and_fill_the_cache_do_not_wait_for_each_other() -> None:
    scheduler = Scheduler(limits(blocks=3, max_seqs=1))
    run(scheduler, family(3, 2) + family(3, 2, index=1))


def test_a_scored_prompt_is_computed_by_the_one_that_asks() -> None:
    scheduler = Scheduler(limits())
    work = family(3, 2)
    work[0].params = SamplingParams(n=3, prompt_logprobs=1, ignore_eos=True)
    plans = run(scheduler, work)
    assert [plan.tokens for plan in plans] == [10, 3]


@pytest.mark.parametrize("slots", [0, 20])
def test_preempted_before_its_copy_was_made(slots: int) -> None:
    """The tail goes to host memory as the request's own block, or is copied when the request comes back."""
    scheduler, device = Scheduler(limits(prefix_caching=False, swap_slots=slots, max_seqs=3)), Device(4)
    work = family(5, 4)
    for one in work:
        scheduler.add(one)
    for number in range(40):
        plan = scheduler.schedule()
        if not plan.slices:
            break
        device.execute(plan)
        scheduler.update(plan, *verify(plan))
        if number == 0:
            for one in scheduler.running[1:]:
                scheduler.requests.preempt(one)
        scheduler.check()
    assert [one.output for one in work] == [next_tokens(request(0, PROMPT, child=i), 4) for i in range(5)]
    assert scheduler.requests.preemptions == 2
    assert scheduler.kv.pool.held == scheduler.kv.slots.held == 0
