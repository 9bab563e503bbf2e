"""Admission: requests start only where the cache has room for their whole life."""

from __future__ import annotations

import random

import pytest

from engine.params import SamplingParams
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.simulate import Job, Simulation, chatlike, simulate
from tests.engine.schedule.steps import IGNORE, STOP, limits, request, run, spans, step

SMALL = {"blocks": 750, "block_size": 64, "prefix_caching": False}


def both(jobs: list[Job], policy: str, **changes: object) -> tuple[Simulation, Simulation]:
    """Without and with admission control."""
    return (
        simulate(jobs, policy=policy, admission_control=False, **(SMALL | changes)),
        simulate(jobs, policy=policy, admission_control=True, **(SMALL | changes)),
    )


@pytest.mark.parametrize("policy", ["fcfs", "longest_first"])
@pytest.mark.parametrize("blocks", [750, 1500])
def test_certain_lengths_never_preempt_and_finish_earlier(policy: str, blocks: int) -> None:
    free, controlled = both(chatlike(), policy, blocks=blocks)
    assert free.scheduler.requests.preemptions > 100
    assert (controlled.scheduler.requests.preemptions, controlled.scheduler.requests.recomputed_tokens) == (0, 0)
    assert controlled.milliseconds < 0.95 * free.milliseconds


def test_equal_lengths_fill_the_cache() -> None:
    """In waves, as many at once as fit in their last step: what is left over is the reserve."""
    _, controlled = both([Job(64, 64, 64)] * 2000, "fcfs")
    assert controlled.scheduler.requests.preemptions == 0
    running = 750 * 64 / (64 + 64)
    assert max(controlled.tokens[100:]) > 0.85 * running


@pytest.mark.parametrize("overstated", [1, 4])
def test_uncertain_lengths_are_learned(monkeypatch: pytest.MonkeyPatch, overstated: int) -> None:
    monkeypatch.setattr("tests.engine.schedule.simulate.IGNORE", SamplingParams(stop=["unlikely"]))
    jobs = [Job(job.prompt, overstated * job.bound, job.output) for job in chatlike(1)]
    free, controlled = both(jobs, "fcfs")
    assert controlled.scheduler.requests.recomputed_tokens < 0.1 * free.scheduler.requests.recomputed_tokens
    assert controlled.milliseconds < 0.95 * free.milliseconds


def test_a_request_that_fills_the_cache_starts_when_it_is_alone() -> None:
    scheduler = Scheduler(limits(blocks=8, admission_control=True))
    scheduler.add(request(0, [1] * 4, 6, params=IGNORE))
    scheduler.add(request(1, [2] * 4, 29, params=IGNORE))
    assert spans(step(scheduler)) == [(0, 0, 0, 4)]
    plans = run(scheduler)
    assert scheduler.requests.preemptions == 0
    assert max(len(plan.slices) for plan in plans) == 1


def test_blocks_shared_with_running_requests_count_once() -> None:
    scheduler = Scheduler(limits(blocks=32, max_tokens=512, admission_control=True))
    for index in range(6):  # 20 blocks in common, and one and a half each
        scheduler.add(request(index, [7] * 80 + [index], 4, params=IGNORE))
    step(scheduler)
    assert len(scheduler.running) >= 4
    run(scheduler)
    assert scheduler.requests.preemptions == 0


@pytest.mark.parametrize("seed", range(5))
def test_estimates_follow_what_runs(seed: int) -> None:
    """Random lengths, ends and caches: requests finish, and the list of stays empties with them."""
    draw = random.Random(seed)
    scheduler = Scheduler(limits(blocks=draw.randint(20, 60), admission_control=True, max_tokens=draw.randint(4, 40)))
    for index in range(80):
        ends = frozenset({STOP} if draw.random() < 0.5 else ())
        tokens = [draw.randrange(5) for _ in range(draw.randint(1, 30))]
        scheduler.add(request(index, tokens, draw.randint(1, 40), stop_ids=ends))
    run(scheduler)
    assert scheduler.requests.admission is not None
    assert not scheduler.requests.admission._stays
    assert scheduler.requests.admission._own == 0
