"""A grid, with its cases and repeats, from its declaration to its end."""

from __future__ import annotations

from collections.abc import Mapping

from runner.config.sweep import SweepSection
from runner.errors import ConfigError, RunFailedError
from runner.interrupts import Interrupts
from runner.sweep.compose import Prepared
from runner.sweep.folder import Sweep
from runner.sweep.open_sweep import OpenSweep, new_sweep
from runner.sweep.plan import PlannedJob, interleaved
from runner.sweep.request import Request
from runner.sweep.search import run_search
from runner.sweep.variants import all_overrides, expand

MOST_JOBS = 10_000


def run_sweep(request: Request) -> None:
    """Run or resume a sweep.

    Raises:
        ConfigError: the declaration is wrong; nothing was run.
        SweepFailedError: some jobs failed; the others are complete.
        RunFailedError: the disk is full.
        Interrupted: SIGINT or SIGTERM; what is finished is kept.
    """
    try:
        _run(request)
    except OSError as error:
        raise RunFailedError(f"the sweep's folder cannot be written: {error}. Is the disk full?") from None


def _run(request: Request) -> None:
    section = request.composer.section()
    overrides = all_overrides(request.params, request.arguments, request.composer.loader)
    with Interrupts() as interrupts:
        if section.search.objective is not None:
            run_search(request, section, overrides, interrupts)
            return
        variants = expand(overrides, section.cases)
        if len(variants) * (section.repeats + section.warmup) > MOST_JOBS:
            raise ConfigError(f"the sweep has {len(variants)} variants: more than {MOST_JOBS} jobs are not allowed")
        prepared = {variant.number: request.composer.prepare(variant) for variant in variants}
        wrong = [found.error for found in prepared.values() if found.error is not None]
        if len(wrong) == len(variants):
            raise ConfigError(wrong[0])
        with OpenSweep(request, planned_sweep(request, section, prepared), interrupts) as session:
            jobs = [(planned, prepared[planned.variant.number]) for planned in session.sweep.open_jobs()]
            session.run(jobs, request.job_command)


def planned_sweep(request: Request, section: SweepSection, prepared: Mapping[int, Prepared]) -> Sweep:
    """The plan, not yet on disk."""
    order = interleaved([p.variant for p in prepared.values()], section.repeats, section.warmup)
    jobs = tuple(
        PlannedJob(number, variant, repeat, warmup, prepared[variant.number].identity)
        for number, (variant, repeat, warmup) in enumerate(order, start=1)
    )
    what = [
        [job.identity or list(job.variant.overrides), job.repeat, job.warmup] for job in jobs
    ]  # a wrong configuration has no identity but its words
    return new_sweep(request, section, [p.name for p in prepared.values()], what, jobs)
