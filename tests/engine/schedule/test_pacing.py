"""Pacing on a device that only takes time, and its bookkeeping."""

from __future__ import annotations

import random

import pytest

from engine.params import SamplingParams
from engine.schedule.output_lengths import OutputLengths, remaining
from engine.schedule.pacing import CHUNK, Pacing
from engine.schedule.request import Request, Status
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.simulate import LARGE, Job, Simulation, chatlike, roofline, simulate
from tests.engine.schedule.steps import IGNORE, limits, request

BALANCE = 256


def plain(jobs: list[Job]) -> Simulation:
    return simulate(jobs, policy="fcfs", prefix_caching=False)


def paced(jobs: list[Job], **changes: int) -> Simulation:
    return simulate(jobs, policy="longest_first", balance=BALANCE, prefix_caching=False, **changes)


def bound_of(jobs: list[Job]) -> float:
    """No schedule is faster: every token computed at the best rate, every step of the longest output at its price."""
    tokens = sum(job.prompt + job.output - 1 for job in jobs)
    return max(tokens * roofline(10_000) / 10_000, max(job.output for job in jobs) * roofline(1))


@pytest.mark.parametrize("seed", [0, 1])
def test_mixed_outputs_finish_earlier_than_in_order_of_arrival(seed: int) -> None:
    jobs = chatlike(seed)
    run = paced(jobs)
    assert run.milliseconds < 0.86 * plain(jobs).milliseconds
    assert run.milliseconds < 1.02 * bound_of(jobs)
    assert sum(tokens >= BALANCE for tokens in run.tokens) > 0.95 * len(run.tokens), "hardly a step is half empty"


def test_longest_first_alone_does_not_do_it() -> None:
    jobs = chatlike()
    alone = simulate(jobs, policy="longest_first", prefix_caching=False)
    assert paced(jobs).milliseconds < 0.9 * alone.milliseconds


def test_a_paced_prompt_is_not_computed_in_crumbs() -> None:
    """A step computes at least a chunk of a prompt, or what is left of it: every slice reads all keys before it."""
    jobs = chatlike()
    scheduler = Scheduler(limits(**LARGE, policy="longest_first", balance=BALANCE, prefix_caching=False))
    for index, job in enumerate(jobs):
        scheduler.add(request(index, [1] * job.prompt, job.bound, params=IGNORE))
    slices, crumbs = 0, 0
    while scheduler.unfinished:
        plan = scheduler.schedule()
        prompts = [part for part in plan.slices if part.start < len(part.request.prompt)]
        slices += len(prompts)
        crumbs += sum(part.stop - part.start < CHUNK and not part.samples for part in prompts)
        scheduler.update(plan, {part.request: 1 for part in plan.slices if part.samples})
    assert slices < 2 * len(jobs)
    assert crumbs < 0.02 * len(jobs)  # prompts that may not wait


@pytest.mark.parametrize("output", [1, 64, 512])
def test_equal_bounds_are_not_paced(output: int) -> None:
    jobs = [Job(128, output, output)] * 512
    assert paced(jobs).tokens == plain(jobs).tokens


def mixes() -> dict[str, list[Job]]:
    draw = random.Random(5)
    return {
        "two lengths": [Job(100, 2000, 2000) if i % 50 == 0 else Job(100, 20, 20) for i in range(2000)],
        "one long among many short": [Job(50, 3000, 3000), *[Job(50, 30, 30)] * 1500],
        "few very long prompts": [Job(12_000, 50, 50) if i % 40 == 0 else Job(60, 400, 400) for i in range(400)],
        "long prompts, one token": [Job(1500, 1, 1)] * 300 + [Job(30, 600, 600)] * 5,
        "bounds that overstate": [Job(j.prompt, 4 * j.bound, j.output) for j in chatlike(3)],
        "one bound for all": [Job(j.prompt, 1000, j.output) for j in chatlike(4)],
        "bounds that say nothing": [Job(j.prompt, draw.randint(j.output, 4000), j.output) for j in chatlike(3)],
        "no bounds": [Job(j.prompt, 131_072 - j.prompt, j.output) for j in chatlike(3)[:300]],
        "one bound that overstates": [Job(100, 8000, 40), *[Job(100, 60, 60)] * 1000],
        "a stream": [Job(j.prompt, j.bound, j.output, draw.uniform(0, 8000)) for j in chatlike(6)],
        "a few": chatlike(7)[:20],
    }


@pytest.mark.parametrize("name", mixes())
def test_no_mix_is_slower(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is a little dearer per token in small steps; where bounds are wrong, nobody claims otherwise."""
    jobs = mixes()[name]
    if any(job.bound != job.output for job in jobs):
        monkeypatch.setattr("tests.engine.schedule.simulate.IGNORE", SamplingParams(stop=["unlikely"]))

    def cost(tokens: int) -> float:
        return max(4.0, 0.4 + tokens * 0.0223)

    def time(**changes: object) -> float:
        return simulate(jobs, cost, prefix_caching=False, **changes).milliseconds

    assert time(policy="longest_first", balance=BALANCE) < 1.03 * time(policy="fcfs")


def test_lengths_are_certain_or_learned() -> None:
    lengths = OutputLengths()
    certain, open_ended = request(0, [1], 400), request(1, [1], 400, stop_ids=frozenset({9}))
    assert (lengths.rest(certain), lengths.rest(open_ended)) == (400, 100)
    for index in range(50):
        done = request(index, [1], 1000, params=SamplingParams(stop=["x"]))
        done.output = [1] * 700
        lengths.learn(done)
    open_ended.output = [1] * 100
    assert 205 <= lengths.rest(open_ended) <= 210
    assert lengths.rest(certain) == 400


def test_horizon_is_the_longest_rest() -> None:
    """Against the maximum over all, for requests that start on arrival, wait, write and finish."""
    draw = random.Random(2)
    pacing = Pacing(BALANCE, 8192, OutputLengths())
    running: list[Request] = []
    for now in range(400):
        for index in range(draw.randrange(3)):
            one = request(2 * now + index, [1], draw.randint(1, 60))
            one.arrival = now
            pacing.add(one, now)
            running.append(one)
        assert pacing.horizon(now) == max(map(remaining, running), default=0)
        for one in running:
            one.output.append(1)
            if remaining(one) == 0 or draw.random() < 0.02:
                one.status = Status.FINISHED
                pacing.finish(one)
        running = [one for one in running if one.status is not Status.FINISHED]
    assert len(pacing._certain._heap) < 4 * len(running) + 200, "finished requests are forgotten"
