"""The scheduler's rules, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from engine.params import SamplingParams
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.steps import IGNORE, limits, request, run, spans, step


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


def test_longest_first_runs_longer_bounds_first_and_lets_nobody_starve() -> None:
    scheduler = Scheduler(limits(max_seqs=1, policy="longest_first"))
    for index, bound in enumerate((3, 7, 7, 5)):
        scheduler.add(request(index, [index + 1], bound, params=IGNORE))
    order = [spans(plan)[0][0] for plan in run(scheduler)]
    assert list(dict.fromkeys(order)) == [1, 2, 3, 0]
    patient = request(10, [1], 1)
    scheduler.add(patient)
    for index in range(11, 40):  # a longer one every four steps
        scheduler.add(request(index, [1], 4))
        for _ in range(4):
            step(scheduler)
        if patient.output:
            break
    assert index < 14


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


def test_siblings_start_behind_the_first_and_share_its_blocks() -> None:
    scheduler = Scheduler(limits(max_tokens=8))
    first, *others = (request(0, [1] * 12, child=child) for child in range(3))
    for one in (first, *others, request(1, [7] * 4)):
        scheduler.add(one)
    assert spans(step(scheduler)) == [(0, 0, 0, 8)]
    assert spans(step(scheduler)) == [(0, 0, 8, 12), (0, 1, 8, 12)]
    assert spans(step(scheduler)) == [(0, 0, 12, 13), (0, 1, 12, 13), (0, 2, 8, 12), (1, 0, 0, 2)]
    assert first.blocks[:2] == others[0].blocks[:2] == others[1].blocks[:2]


def test_one_plan_computes_a_common_beginning_once() -> None:
    scheduler = Scheduler(limits(max_tokens=8192, max_seqs=16, blocks=1024))
    shared = [index % 50 for index in range(1000)]
    for index in range(10):
        scheduler.add(request(index, [*shared, 100 + index, 5], 3))
    assert spans(step(scheduler)) == [(0, 0, 0, 1002), *((index, 0, 1000, 1002) for index in range(1, 10))]
    assert sum(plan.tokens for plan in run(scheduler)) <= 10 * 2


def test_blocks_with_tokens_that_are_still_drawn_are_published_later() -> None:
    scheduler = Scheduler(limits())
    one = request(0, [5] * 7, 9)
    scheduler.add(one)
    first = scheduler.schedule()
    scheduler.advance(first)
    second = scheduler.schedule()  # fills the second block with a token that nobody knows yet
    scheduler.advance(second)
    assert one.published == 1
    scheduler.update(first, {one: 3})
    scheduler.update(second, {one: 4})
    assert one.published == 2
    twin = request(1, [5] * 7 + [3, 9], 1)
    scheduler.add(twin)
    assert (1, 0, 8, 9) in spans(scheduler.schedule())


def test_finish_while_a_step_is_computed_drops_its_result() -> None:
    scheduler = Scheduler(limits())
    one = request(0, [1] * 4)
    scheduler.add(one)
    plan = scheduler.schedule()
    scheduler.finish(one, "stop", "x")
    assert scheduler.update(plan, {one: 3}) == []
    assert (one.output, one.finish_reason, one.stop_reason) == ([], "stop", "x")
    assert scheduler.kv.pool.held == 0
    scheduler.finish(one, "abort")
    assert one.finish_reason == "stop", "the first reason stays"


def test_stop_ids_end_a_request_after_min_tokens_and_name_the_id() -> None:
    params = SamplingParams(min_tokens=2, stop_token_ids=[5])
    ends = {"stop_ids": frozenset({5, 6}), "eos_ids": frozenset({6})}
    one, other = (request(index, [1], 9, params=params, **ends) for index in range(2))
    scheduler = Scheduler(limits())
    scheduler.add(one)
    scheduler.add(other)
    for token in (5, 5):
        plan = scheduler.schedule()
        scheduler.update(plan, {one: token, other: 6})
    assert (one.finish_reason, one.stop_reason, one.output) == ("stop", 5, [5, 5])
    assert (other.finish_reason, other.stop_reason) == ("stop", None), "the model's own end has no reason to name"


def test_swapped_request_goes_on_where_it_was_and_an_aborted_one_frees_its_slots() -> None:
    scheduler = Scheduler(limits(blocks=6, swap_slots=4, prefix_caching=False))
    for index in range(2):
        scheduler.add(request(index, [index + 1] * 7, 9, params=IGNORE))
    plans = [step(scheduler) for _ in range(7)]
    (out,) = [plan for plan in plans if plan.swap_out]
    assert len(out.swap_out) == 3
    assert [slot for _, slot in out.swap_out] == [0, 1, 2]
    stopped = max(part.stop for plan in plans for part in plan.slices if part.request.index == 1)
    for plan in run(scheduler):
        if plan.swap_in:
            assert [slot for _, slot in plan.swap_in] == [0, 1, 2]
            assert spans(plan) == [(1, 0, stopped, stopped + 1)]
    assert (scheduler.requests.preemptions, scheduler.requests.recomputed_tokens, scheduler.kv.slots.held) == (1, 0, 0)
    pair = [request(index, [index + 1] * 7, 9, params=IGNORE) for index in (2, 3)]
    for one in pair:
        scheduler.add(one)
    while not pair[1].slots:
        step(scheduler)
    scheduler.finish(pair[1], "abort")
    scheduler.check()
    assert scheduler.kv.slots.held == 0


def test_what_does_not_fit_the_host_is_recomputed() -> None:
    scheduler = Scheduler(limits(blocks=6, swap_slots=2, prefix_caching=False))
    for index in range(2):
        scheduler.add(request(index, [index + 1] * 7, 9, params=IGNORE))
    plans = run(scheduler)
    assert not any(plan.swap_out or plan.swap_in for plan in plans)
    assert scheduler.requests.preemptions == 1
    assert scheduler.requests.recomputed_tokens > 0
