"""Looks at a sweep's jobs while they run, whichever launcher runs them: their states are files."""

from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from runner.job import JobState, read_state
from runner.run_outcome import finished_rows
from runner.sweep.folder import Sweep
from runner.sweep.plan import PlannedJob
from runner.sweep.table import job_line, job_table
from runner.tracking import Tracker
from runner.tracking.tracker import Status

POLL_SECONDS = 0.5
_log = logging.getLogger(__name__)


@dataclass
class Watch:
    """A live table where the output is a terminal, else a line for each job that begins or ends. Tells MLflow of jobs
    whose processes died.

    Args:
        sweep: the plan; a search replaces it as it grows.
        tracker: the sweep's own.
        shown: False only tracks.
    """

    sweep: Sweep
    tracker: Tracker
    shown: bool
    _states: dict[int, JobState] = field(default_factory=dict)
    _rows: dict[int, int] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._look(first=True)
        console = Console(stderr=True)
        self._live: Live | None = None
        if self.shown and sys.stderr.isatty():
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)
            self._live.start()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        if self._live is not None:
            self._live.stop()

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            try:
                self._look()
            except Exception as error:  # a look that failed must not end the looking
                _log.debug("the jobs could not be looked at: %s", error)

    def _look(self, first: bool = False) -> None:
        for planned in self.sweep.jobs:
            before = self._states.get(planned.number, JobState())
            if before.standing == "finished":
                continue
            # what an earlier process left may be behind its journal; what runs now notes its own end
            state = self.sweep.state(planned) if first else read_state(self.sweep.job(planned))
            if first and state.standing == "running":  # its process died with the sweep's
                state = replace(state, standing="killed")
            self._states[planned.number] = state
            if not first and (state.standing, state.starts) != (before.standing, before.starts):
                self._changed(planned, state)

    def _changed(self, planned: PlannedJob, state: JobState) -> None:
        self._rows.pop(planned.number, None)
        if self.shown and self._live is None:
            print(job_line(planned, len(self.sweep.jobs), state), file=sys.stderr, flush=True)
        if state.died and state.run_dir is not None:
            from runner.tracking.record import end_dead_run

            status: Status = "KILLED" if state.standing == "killed" else "FAILED"
            end_dead_run(state.run_dir, status, state.error)
        done = sum(s.standing == "finished" for s in self._states.values())
        failed = sum(s.standing == "failed" for s in self._states.values())
        self.tracker.log_progress(done + failed, {"jobs/finished": float(done), "jobs/failed": float(failed)})

    def _table(self) -> Table:
        now = time.time()
        lines = [(planned, self._states.get(planned.number, JobState())) for planned in self.sweep.jobs]
        for planned, state in lines:
            if state.run_dir is not None and (state.standing == "running" or planned.number not in self._rows):
                self._rows[planned.number] = finished_rows(state.run_dir)
        return job_table(self.sweep, lines, self._rows, now)
