"""A sweep from its folder to its report; in between its jobs run."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.config.sweep import SweepSection
from runner.errors import ConfigError, Interrupted, RunFailedError, RunnerError
from runner.interrupts import Interrupts
from runner.sweep.finish import Points, finish_sweep, print_sweep
from runner.sweep.folder import Sweep, SweepFolder, open_sweep_folder
from runner.sweep.plan import PlannedJob
from runner.sweep.request import Request
from runner.sweep.session import Launch, Session, SweepFailedError, open_parent, say_resume
from runner.sweep.table import cause
from runner.tracking import Tracker, TrackingError

MOST_NAMED = 20  # failures in the last message; the report has all


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


class OpenSweep:
    """The sweep's folder, tracker and session while jobs run; at the end table, report, summary and exit code."""

    def __init__(self, request: Request, planned: Sweep, interrupts: Interrupts) -> None:
        self._request, self._interrupts = request, interrupts
        root = Path(str(request.composer.plain("output_root")))
        resume = request.composer.plain("resume")
        self._folder: SweepFolder = open_sweep_folder(root, planned, resume)
        verb = "resuming" if self._folder.resumed else "starting"
        sweep = self._folder.sweep
        count = f"{len(sweep.jobs)} jobs" if planned.search is None else f"{planned.search['trials']} trials"
        print(f"{verb} the sweep {sweep.name}, {count}: {sweep.path}", file=sys.stderr, flush=True)
        try:
            self._launch = self._open_launcher()
            self._tracker = self._open_tracker(root)
        except BaseException:
            self._folder.close()
            raise

    def _open_launcher(self) -> Launch:
        try:
            return self._request.launcher(self._folder.sweep.path)
        except RunnerError:
            raise
        except Exception as error:  # a plugin of somebody else's, or what it needs
            raise ConfigError(f"hydra/launcher cannot be used: {type(error).__name__}: {error}") from None

    def _open_tracker(self, root: Path) -> Tracker:
        sweep, tracking = self._folder.sweep, self._request.composer.plain("tracking")
        config = {"sweep": self._request.composer.plain("sweep"), "params": dict(self._request.params or {})}
        try:
            return open_parent(sweep, tracking, root, config | {"arguments": shlex.join(self._request.arguments)})
        except TrackingError as error:
            raise ConfigError(str(error)) from None

    def __enter__(self) -> Session:
        shown = bool(self._request.composer.plain("progress"))
        self._session = Session(self._folder, self._tracker, self._launch, shown)
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
        unmet = [(job, state) for job, state in states if state.standing == "finished" and state.error is not None]
        left = sum(state.standing in ("planned", "killed", "running") for _, state in states)
        if not failed and not unmet and not left:
            return
        parts = [f"{len(failed)} of {len(states)} jobs failed"] if failed or not unmet else []
        parts += [f"{len(unmet)} of {len(states)} jobs do not meet their requirements"] if unmet else []
        lines = [", ".join([*parts, *([f"{left} were not run"] if left else [])])]
        named = [*failed, *unmet]
        lines += [f"  job {job.number} ({job.variant.label}): {cause(state)}" for job, state in named[:MOST_NAMED]]
        lines += [f"  and {len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
        raise SweepFailedError("\n".join(lines), max([1, *(state.exit_code or 1 for _, state in named)]))
