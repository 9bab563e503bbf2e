"""The scheduler's rules, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from engine.params import SamplingParams
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.steps import limits, request, run, spans, step


def test_one_budget_serves_running_requests_first_then_prompts_in_chunks() -> None:
    scheduler = Scheduler(limits(max_tokens=6))
    scheduler.add(request(0, [1] * 4))
    assert spans(step(scheduler)) == [(0, 0, 0, 4)]
    scheduler.add(request(1, [2] * 8))
    scheduler.add(request(2, [3] * 3))
    assert spans(step(scheduler)) == [(0, 0, 4, 5), (1, 0, 0, 5)]
    assert spans(step(scheduler)) == [(0, 0, 5, 6), (1, 0, 5, 8), (2, 0, 0, 2)]


def test_without_chunks_a_prompt_waits_until_it_fits_whole() -> None:
    scheduler = Scheduler(limits(max_tokens=6, chunked_prefill=False))
    scheduler.add(request(0, [1] * 4, 2))
    scheduler.add(request(1, [2] * 6, 1))
    scheduler.add(request(2, [3], 1))
    plans = [spans(plan) for plan in run(scheduler)]
    assert plans == [[(0, 0, 0, 4)], [(0, 0, 4, 5)], [(1, 0, 0, 6)], [(2, 0, 0, 1)]]


def test_priority_runs_lower_numbers_first_and_fcfs_ignores_them() -> None:
    for policy, expected in (("fcfs", [0, 1, 2]), ("priority", [2, 1, 0])):
        scheduler = Scheduler(limits(max_seqs=1, policy=policy))
        for index in range(3):
            scheduler.add(request(index, [index + 1], 1, priority=-index))
        assert [spans(plan)[0][0] for plan in run(scheduler)] == expected


def test_late_urgent_request_preempts_the_least_urgent_when_blocks_run_out() -> None:
    scheduler = Scheduler(limits(blocks=3, policy="priority", prefix_caching=False))
    urgent = request(1, [2] * 4, 6, priority=-1)
    slow = request(0, [1] * 4, 6, priority=5)
    scheduler.add(slow)
    step(scheduler)
    scheduler.add(urgent)
    run(scheduler)
    assert (slow.preemptions, urgent.preemptions) == (1, 0)
    assert len(slow.output) == len(urgent.output) == 6


def test_last_token_never_comes_from_the_cache() -> None:
    scheduler = Scheduler(limits())
    for index in range(2):
        scheduler.add(request(index, [5] * 8, 1))
        run(scheduler)
    again = request(2, [5] * 8, 1)
    scheduler.add(again)
    assert spans(scheduler.schedule()) == [(2, 0, 4, 8)]
    assert again.cached_tokens == 4


def test_longer_prompt_takes_the_full_blocks_it_shares() -> None:
    scheduler = Scheduler(limits())
    scheduler.add(request(0, list(range(1, 12)), 1))
    run(scheduler)
    scheduler.add(request(1, [*range(1, 9), 99, 98, 97], 1))
    assert spans(scheduler.schedule()) == [(1, 0, 8, 11)]


def test_output_tokens_are_found_too() -> None:
    scheduler = Scheduler(limits())
    first = request(0, [1] * 6, 6)
    scheduler.add(first)
    run(scheduler)
    scheduler.add(request(1, first.tokens(0, 12), 1))
    assert spans(scheduler.schedule()) == [(1, 0, 8, 12)]


@pytest.mark.parametrize("changes", [{"salt": b"x"}, {"params": SamplingParams(prompt_logprobs=0)}])
def test_salt_separates_and_prompt_logprobs_compute_everything(changes: dict[str, Any]) -> None:
    scheduler = Scheduler(limits())
    scheduler.add(request(0, [5] * 12, 1))
    run(scheduler)
    other = request(1, [5] * 12, 1, **changes)
    scheduler.add(other)
    assert spans(step(scheduler)) == [(1, 0, 0, 12)]
    assert other.cached_tokens == 0


def test_same_tokens_after_another_beginning_are_not_shared() -> None:
    scheduler = Scheduler(limits())
    scheduler.add(request(0, [1, 1, 1, 1, 2, 2, 2, 2, 9], 1))
    run(scheduler)
    scheduler.add(request(1, [2, 2, 2, 2, 2, 2, 2, 2, 9], 1))
    assert spans(scheduler.schedule()) == [(1, 0, 0, 9)]


def test_prefix_caching_off_shares_nothing() -> None:
    scheduler = Scheduler(limits(prefix_caching=False))
    for index in range(2):
        scheduler.add(request(index, [5] * 12, 1))
        assert spans(step(scheduler)) == [(index, 0, 0, 12)]


def test_siblings_wait_for_their_leader_and_share_its_blocks() -> None:
    scheduler = Scheduler(limits(max_tokens=8))
    leader = request(0, [1] * 12)
    children = [request(0, [1] * 12, child=child, leader=leader) for child in (1, 2)]
    for one in (leader, *children, request(1, [7] * 4)):
        scheduler.add(one)
    assert spans(step(scheduler)) == [(0, 0, 0, 8)]
    assert spans(step(scheduler)) == [(0, 0, 8, 12), (1, 0, 0, 4)]
    assert spans(step(scheduler)) == [(0, 0, 12, 13), (1, 0, 4, 5), (0, 1, 8, 12), (0, 2, 8, 10)]
    assert leader.blocks[:2] == children[0].blocks[:2] == children[1].blocks[:2]


def test_siblings_of_an_aborted_leader_start() -> None:
    scheduler = Scheduler(limits())
    leader = request(0, [1] * 12)
    child = request(0, [1] * 12, child=1, leader=leader)
    scheduler.add(leader)
    scheduler.add(child)
    scheduler.finish(leader, "abort")
    assert spans(scheduler.schedule()) == [(0, 1, 0, 12)]


def test_finish_while_a_step_is_computed_drops_its_result() -> None:
    scheduler = Scheduler(limits())
    one = request(0, [1] * 4)
    scheduler.add(one)
    plan = scheduler.schedule()
    scheduler.finish(one, "stop", "x")
    assert scheduler.update(plan, {one: 3}) == []
    assert (one.output, one.finish_reason, one.stop_reason) == ([], "stop", "x")
    assert scheduler.pool.held == 0
    scheduler.finish(one, "abort")
    assert one.finish_reason == "stop", "the first reason stays"


def test_stop_ids_end_a_request_after_min_tokens_and_name_the_id() -> None:
    params = SamplingParams(min_tokens=2, stop_token_ids=[5])
    one = request(0, [1], 9, stop_ids=frozenset({5, 6}), params=params)
    other = request(1, [1], 9, stop_ids=frozenset({5, 6}), params=params)
    scheduler = Scheduler(limits())
    scheduler.add(one)
    scheduler.add(other)
    for token in (5, 5):
        plan = scheduler.schedule()
        scheduler.update(plan, {one: token, other: 6})
    assert (one.finish_reason, one.stop_reason, one.output) == ("stop", 5, [5, 5])
    assert (other.finish_reason, other.stop_reason) == ("stop", None), "the model's own end has no reason to name"
