"""A sweep from its declaration to its report."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.command import run_command
from runner.config.sweep import SweepSection
from runner.errors import ConfigError, Interrupted, RunFailedError
from runner.interrupts import Interrupts
from runner.sweep.compose import Composer, Prepared
from runner.sweep.finish import Points, finish_sweep, print_sweep
from runner.sweep.folder import Sweep, SweepFolder, open_sweep_folder
from runner.sweep.plan import PlannedJob, interleaved
from runner.sweep.session import Launch, Session, SweepFailedError, open_parent, say_resume
from runner.sweep.table import cause
from runner.sweep.variants import all_overrides, expand
from runner.tracking import Tracker, TrackingError

MOST_JOBS = 10_000
MOST_NAMED = 20  # failures in the last message; the report has all


@dataclass(frozen=True)
class Request:
    """What the command line and the recipe asked for.

    Args:
        composer: over the base configuration.
        params: ``hydra.sweeper.params``.
        arguments: the overrides of the command line.
        config_dir: of ``--config-dir``.
        words: the command line without ``runner``.
        launcher: given the sweep's folder, what runs jobs.
        at_once: how many jobs that launcher runs together, given whether they want a GPU.
    """

    composer: Composer
    params: Mapping[str, Any] | None
    arguments: Sequence[str]
    config_dir: str | None
    words: Sequence[str]
    launcher: Callable[[Path], Launch]
    at_once: Callable[[bool], int]

    @property
    def command(self) -> tuple[str, ...]:
        """What starts or resumes the sweep."""
        return ("runner", *(word for word in self.words if word.lstrip("+").partition("=")[0] != "resume"))

    def job_command(self, planned: PlannedJob) -> list[str]:
        """What runs one job alone."""
        return run_command(self.config_dir, planned.variant.overrides, alone=True)


def run_sweep(request: Request) -> None:
    """Run or resume a sweep.

    Raises:
        ConfigError: the declaration is wrong; nothing was run.
        SweepFailedError: some jobs failed; the others are complete.
        Interrupted: SIGINT or SIGTERM; what is finished is kept.
    """
    section = request.composer.section()
    overrides = all_overrides(request.params, request.arguments, request.composer.loader)
    with Interrupts() as interrupts:
        if section.search.objective is not None:
            from runner.sweep.search import run_search

            run_search(request, section, overrides, interrupts)
            return
        variants = expand(overrides, section.cases)
        if len(variants) * (section.repeats + section.warmup) > MOST_JOBS:
            raise ConfigError(f"the sweep has {len(variants)} variants: more than {MOST_JOBS} jobs are not allowed")
        prepared = {variant.number: request.composer.prepare(variant) for variant in variants}
        wrong = [found.error for found in prepared.values() if found.error is not None]
        if len(wrong) == len(variants):
            raise ConfigError(wrong[0])
        with opened(request, planned_sweep(request, section, prepared), interrupts) as session:
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


def new_sweep(
    request: Request, section: SweepSection, names: Sequence[str | None], what: Any, jobs: tuple[PlannedJob, ...]
) -> Sweep:
    """A sweep that has no folder yet. ``what`` is hashed, ``names`` are those of its jobs."""
    found = {name for name in names if name is not None}
    name = str(request.composer.plain("name") or (found.pop() if len(found) == 1 else "sweeps"))
    tracking = request.composer.plain("tracking")
    tracked = tracking.get("kind") == "mlflow"
    experiment = str(tracking.get("experiment") or name) if tracked else None
    sweep_hash = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    search = None if section.search.objective is None else section.search.model_dump(mode="json")
    return Sweep(Path(), name, sweep_hash, request.command, section.repeats, section.warmup, search, experiment, jobs)


def _finished(sweep: Sweep) -> tuple[RunFailedError | None, list[Path], Points]:
    """Table, report and points. A report that cannot be built must not keep MLflow and the user from the end."""
    try:
        return None, *finish_sweep(sweep)
    except Exception as error:
        text = f"the jobs' outputs are kept, and the report could not be built: {type(error).__name__}: {error}"
        return RunFailedError(text), [], []


class opened:  # noqa: N801 - a context manager
    """The sweep's folder, tracker and session while jobs run; at the end table, report, summary and exit code."""

    def __init__(self, request: Request, planned: Sweep, interrupts: Interrupts) -> None:
        self._request, self._interrupts = request, interrupts
        root = Path(str(request.composer.plain("output_root")))
        resume = request.composer.plain("resume")
        self._folder: SweepFolder = open_sweep_folder(root, planned, resume)
        verb = "resuming" if self._folder.resumed else "starting"
        sweep = self._folder.sweep
        count = (
            f"{len(sweep.jobs)} jobs"
            if sweep.search is None
            else f"{(planned.search or sweep.search)['trials']} trials"
        )
        print(f"{verb} the sweep {sweep.name}, {count}: {sweep.path}", file=sys.stderr, flush=True)
        try:
            self._tracker = self._open_tracker(root)
        except BaseException:
            self._folder.close()
            raise

    def _open_tracker(self, root: Path) -> Tracker:
        sweep, tracking = self._folder.sweep, self._request.composer.plain("tracking")
        config = {"sweep": self._request.composer.plain("sweep"), "params": dict(self._request.params or {})}
        try:
            return open_parent(sweep, tracking, root, config | {"arguments": shlex.join(self._request.arguments)})
        except TrackingError as error:
            raise ConfigError(str(error)) from None

    def __enter__(self) -> Session:
        shown = bool(self._request.composer.plain("progress"))
        launch = self._request.launcher(self._folder.sweep.path)
        self._session = Session(self._folder, self._tracker, launch, shown)
        return self._session.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            self._session.__exit__(kind, error, trace)
            with self._interrupts.shielded():
                self._finish(error)
        finally:
            self._folder.close()
        if error is None:
            self._judge()

    def _finish(self, error: BaseException | None) -> None:
        sweep = self._session.sweep
        trouble, files, points = _finished(sweep)
        failed = error is not None or any(sweep.state(job).standing == "failed" for job in sweep.jobs)
        status: Any = "KILLED" if isinstance(error, Interrupted) else "FAILED" if failed else "FINISHED"
        self._tracker.log_points(points)
        self._tracker.finish(status, {}, files)
        print_sweep(sweep, self._tracker.describe())
        if error is not None or sweep.open_jobs():
            say_resume(sweep)
        if trouble is not None and error is None:
            raise trouble

    def _judge(self) -> None:
        """Raise what the exit code is made of."""
        sweep = self._session.sweep
        states = [(job, sweep.state(job)) for job in sweep.jobs]
        failed = [(job, state) for job, state in states if state.standing == "failed"]
        left = sum(state.standing in ("planned", "killed", "running") for _, state in states)
        if not failed and not left:
            return
        lines = [f"{len(failed)} of {len(states)} jobs failed" + (f", {left} were not run" if left else "")]
        lines += [f"  job {job.number} ({job.variant.label}): {cause(state)}" for job, state in failed[:MOST_NAMED]]
        lines += [f"  and {len(failed) - MOST_NAMED} more"] if len(failed) > MOST_NAMED else []
        raise SweepFailedError("\n".join(lines), max([1, *(state.exit_code or 1 for _, state in failed)]))
