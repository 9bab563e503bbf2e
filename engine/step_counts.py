"""What the engine has done since it was ready, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.costs import Cost, StepGroups
from engine.execute.runner import Launched, StepResult
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.scheduler import Scheduler
from engine.stats import EngineStats, TimelinePoint
from engine.timeline import Timeline


@dataclass(frozen=True)
class Step:
    """A launched batch; ``start`` on ``time.monotonic``'s clock."""

    plan: StepPlan
    launched: Launched
    start: float
    cost: Cost


class StepCounts:
    """Totals over steps, their time line, and their groups by arithmetic intensity.

    ``booked`` is when the last step was booked; steps overlap, and the next one counts from there at the earliest.
    """

    def __init__(self, scheduler: Scheduler, ready: float) -> None:
        self.booked = ready
        self._ready = ready
        self._scheduler = scheduler
        self._totals = EngineStats()
        self._timeline = Timeline()
        self._groups = StepGroups()

    def add(self, step: Step, result: StepResult, drawn: int, finished: int, now: float) -> None:
        """Count a step that is computed now, drew ``drawn`` tokens and finished ``finished`` requests."""
        old, pool, slices = self._totals, self._scheduler.kv.pool, step.plan.slices
        seconds = now - max(step.start, self.booked)
        device = old.device_busy_seconds
        if result.device_seconds is not None:
            device = (device or 0.0) + result.device_seconds
        prompt_tokens, cached_tokens = _started(slices)
        self._totals = replace(
            old,
            steps=old.steps + 1,
            prompt_tokens=old.prompt_tokens + prompt_tokens,
            cached_tokens=old.cached_tokens + cached_tokens,
            computed_tokens=old.computed_tokens + step.plan.tokens,
            drafts=old.drafts + len(step.plan.drafts),
            drafted_tokens=old.drafted_tokens + sum(map(len, step.plan.drafts.values())),
            accepted_tokens=old.accepted_tokens + sum(len(drafts.tokens) for drafts in result.accepted.values()),
            output_tokens=old.output_tokens + drawn,
            finished_requests=old.finished_requests + finished,
            peak_running=max(old.peak_running, len(slices)),
            peak_kv_blocks=max(old.peak_kv_blocks, pool.held),
            busy_seconds=old.busy_seconds + seconds,
            device_busy_seconds=device,
            flops=old.flops + step.cost.flops,
            bytes=old.bytes + step.cost.bytes,
        )
        self._groups.add(step.cost, seconds)
        self._timeline.add(
            TimelinePoint(
                time=now - self._ready,
                running=len(slices),
                waiting=self._scheduler.waiting,
                kv_use=pool.held / pool.size,
                output_tokens=self._totals.output_tokens,
            )
        )
        self.booked = now

    def stats(self) -> EngineStats:
        """Totals and the present state."""
        scheduler = self._scheduler
        return replace(
            self._totals,
            preemptions=scheduler.requests.preemptions,
            recomputed_tokens=scheduler.requests.recomputed_tokens,
            swapped_out=scheduler.kv.swapped_out,
            swapped_in=scheduler.kv.swapped_in,
            running=len(scheduler.running),
            waiting=scheduler.waiting,
            kv_blocks_total=scheduler.kv.pool.size,
            kv_blocks_used=scheduler.kv.pool.held,
            step_groups=self._groups.groups(),
            timeline=self._timeline.points(),
        )


def _started(slices: Sequence[Slice]) -> tuple[int, int]:
    """Prompt tokens of the requests that began with this step, and those of them that were there already."""
    started = [
        request
        for request, start, stop, _, epoch in slices
        if start == request.cached_tokens
        and epoch == request.preemptions == 0
        # One that began behind its whole prompt did so without a token, and starts its next slice there too.
        and (start == stop or start < len(request.prompt))
    ]
    return sum(len(request.prompt) for request in started), sum(request.cached_tokens for request in started)
