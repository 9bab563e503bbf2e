"""A device that takes time but computes nothing: whole workloads through the scheduler in seconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.steps import IGNORE, STOP, limits, request

LARGE: dict[str, Any] = {"max_tokens": 8192, "max_seqs": 1024, "blocks": 100_000, "block_size": 16}


@dataclass(frozen=True)
class Job:
    """A request: prompt tokens, bound of the output, where the output really ends, and when it comes (ms)."""

    prompt: int
    bound: int
    output: int
    arrival: float = 0.0


@dataclass
class Simulation:
    """What a workload took: ``tokens`` of every step."""

    scheduler: Scheduler
    milliseconds: float = 0.0
    tokens: list[int] = field(default_factory=list)


def roofline(tokens: int) -> float:
    """Milliseconds of an 8B model's step: all weights are read, or each token is computed."""
    return max(4.0, tokens * 0.0223)


def simulate(jobs: Sequence[Job], cost: Callable[[int], float] = roofline, **changes: Any) -> Simulation:
    """Run jobs to the end; ``changes`` are fields of ``Limits``."""
    run = Simulation(Scheduler(limits(**(LARGE | changes))))
    ends = {request(index, _prompt(index, job.prompt), job.bound, params=IGNORE): job for index, job in enumerate(jobs)}
    coming = sorted(ends, key=lambda one: ends[one].arrival)
    while coming or run.scheduler.unfinished:
        while coming and ends[coming[0]].arrival <= run.milliseconds:
            run.scheduler.add(coming.pop(0))
        if run.scheduler.unfinished:
            _step(run, ends, cost)
        else:
            run.milliseconds = ends[coming[0]].arrival
    run.scheduler.check()
    assert run.scheduler.kv.pool.held == 0
    assert all(len(one.output) == job.output for one, job in ends.items())
    return run


def chatlike(seed: int = 0) -> list[Job]:
    """1,000 requests with the lengths of public chat logs: lognormal, means about 204 in and 188 out, at most 1,000."""
    draw = random.Random(seed)
    lengths = [
        (int(min(2000, max(4, draw.lognormvariate(4.8, 1.1)))), int(min(1000, max(4, draw.lognormvariate(4.9, 0.9)))))
        for _ in range(1000)
    ]
    return [Job(prompt, output, output) for prompt, output in lengths]


def _step(run: Simulation, ends: dict[Request, Job], cost: Callable[[int], float]) -> None:
    plan = run.scheduler.schedule()
    assert plan.slices, "a step with work to do computes something"
    drawn = {part.request: STOP + 1 for part in plan.slices if part.samples}
    run.milliseconds += cost(plan.tokens)
    run.tokens.append(plan.tokens)
    run.scheduler.update(plan, drawn)
    for one in drawn:
        if len(one.output) == ends[one].output:
            run.scheduler.finish(one, "stop")


def _prompt(index: int, tokens: int) -> list[int]:
    """A prompt that shares no beginning with another."""
    return [index + 1] * tokens
