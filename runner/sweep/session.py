"""One process's part in a sweep: jobs handed to a launcher, and what the user and MLflow hear of them."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.command import path_value
from runner.errors import Interrupted, RunFailedError, RunnerError
from runner.folder_lock import lock_file
from runner.job import note_end, read_state
from runner.run_info import RunInfo
from runner.sweep.compose import Prepared
from runner.sweep.folder import Sweep, SweepFolder
from runner.sweep.job_file import JobFile
from runner.sweep.local import GRACE_SECONDS
from runner.sweep.plan import PlannedJob
from runner.sweep.watch import Watch
from runner.tracking import Tracker, open_tracker

Launch = Callable[[Sequence[Sequence[str]]], None]
"""Runs jobs, given by their overrides, to their ends."""


class SweepFailedError(RunFailedError):
    """Some jobs failed; the exit code is the highest of theirs."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Session:
    """What is open while a sweep runs.

    Args:
        folder: held by this process.
        tracker: of the sweep's own MLflow run.
        launch: the launcher.
        shown: whether the jobs are shown while they run.
    """

    folder: SweepFolder
    tracker: Tracker
    launch: Launch
    shown: bool
    _watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self._watch = Watch(self.folder.sweep, self.tracker, self.shown)

    @property
    def sweep(self) -> Sweep:
        """The sweep with the jobs that are planned so far."""
        return self._watch.sweep

    def __enter__(self) -> Session:
        self._watch.__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        self._watch.__exit__(*what)

    def extend(self, jobs: Sequence[PlannedJob]) -> None:
        """Plan more jobs, durably."""
        self.replace(self.sweep.with_jobs([*self.sweep.jobs, *jobs]))

    def replace(self, sweep: Sweep) -> None:
        """Go on with a changed plan, written durably."""
        sweep.write()
        self._watch.sweep = sweep

    def run(self, jobs: Sequence[tuple[PlannedJob, Prepared]], command: Callable[[PlannedJob], list[str]]) -> None:
        """Run jobs to their ends. Those whose configuration is wrong fail at once, and alone.

        Raises:
            Interrupted: a signal arrived; the jobs have kept what they finished.
        """
        good = []
        for planned, prepared in jobs:
            job = self.sweep.job(planned, self.tracker.tracked_id)
            config = prepared.resolved | {"job": None}
            JobFile(job, config, command(planned), prepared.wants_gpu, prepared.error).write()
            if prepared.error is None:
                own = (f"job={path_value(job.file('json'))}", f"hydra.sweep.dir={path_value(self.sweep.path)}")
                good.append([*planned.variant.overrides, *own])
            else:
                note_end(job, "failed", 2, prepared.error)
        problem = None
        try:
            if good:
                self.launch(good)
        except Interrupted:
            self._stop_here([planned for planned, _ in jobs])
            raise
        except RunnerError:
            raise
        except Exception as error:  # of a launcher that is not ours
            problem = f"the launcher failed: {type(error).__name__}: {error}"
        finally:
            self._settle([planned for planned, _ in jobs], problem)

    def _stop_here(self, jobs: Sequence[PlannedJob]) -> None:
        """End the jobs that another launcher has running on this machine; those of ours have ended already."""
        deadline = time.monotonic() + GRACE_SECONDS
        for planned in jobs:
            job = self.sweep.job(planned)
            state = read_state(job)
            if state.standing == "running" and state.pid is not None and state.host == socket.gethostname():
                with contextlib.suppress(OSError):
                    os.kill(state.pid, signal.SIGTERM)
                while read_state(job).standing == "running" and time.monotonic() < deadline:
                    time.sleep(0.1)

    def _settle(self, jobs: Sequence[PlannedJob], problem: str | None) -> None:
        """Note the end of processes that died where no launcher of ours saw it."""
        for planned in jobs:
            job = self.sweep.job(planned)
            state = read_state(job)
            if state.standing == "running" and (lock := lock_file(job.file("lock"))) is not None:
                note_end(job, "failed", 1, problem or "its process ended without a word", died=True)
                os.close(lock)
            elif state.standing == "planned" and problem is not None:
                note_end(job, "failed", 1, problem)


def open_parent(sweep: Sweep, tracking: dict[str, Any], root: Path, config: dict[str, Any]) -> Tracker:
    """The sweep's own MLflow run. Opened before any job starts, so that a fresh database gets its schema here, once.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    info = RunInfo(sweep.name, sweep.path.name, sweep.path, config, sweep.sweep_hash, list(sweep.command))
    kind = str(tracking.get("kind"))
    return open_tracker(
        kind, info, tracking_uri=tracking.get("tracking_uri"), experiment=sweep.experiment, output_root=root
    )


def say_resume(sweep: Sweep) -> None:
    """The line that carries on."""
    left = len(sweep.open_jobs())
    print(
        f"{len(sweep.jobs) - left} of {len(sweep.jobs)} jobs are through; all of it is in {sweep.path}", file=sys.stderr
    )
    words = [*sweep.command, f"resume={path_value(sweep.path)}"]
    print(f"resume with: {shlex.join(words)}", file=sys.stderr, flush=True)
