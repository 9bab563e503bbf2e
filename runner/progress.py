"""How far a run is: for the person who waits, and as the tracker's time series."""

from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from engine.stats import EngineStats
from runner.tracking import Tracker

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0  # between lines where the output is no terminal
TRACK_SECONDS = 5.0  # between points of the tracked time series

_log = logging.getLogger(__name__)


class Counted(Protocol):
    """Something with running totals."""

    def stats(self) -> EngineStats:
        """Totals so far; may be called from another thread."""


@dataclass
class Counts:
    """Rows that this session finished, and how many of them in error. Written by the run loop alone."""

    rows: int = 0
    errors: int = 0

    def add(self, error: bool) -> None:
        """One more finished row."""
        self.rows += 1
        self.errors += error


@dataclass
class Monitor:
    """A thread that reads the engine's totals twice a second, also while no row finishes, and shows and tracks them.

    Args:
        engine: where the totals come from.
        counts: finished rows of this session.
        total: rows of the whole run, about; ``None`` if unknown.
        done: rows that earlier sessions finished.
        shown: False tracks only.
        tracker: takes the time series.
    """

    engine: Counted
    counts: Counts
    total: int | None
    done: int
    shown: bool
    tracker: Tracker
    _began: float = field(default_factory=time.monotonic)
    _over: threading.Event = field(default_factory=threading.Event)
    _lined: float = 0.0
    _tracked: float = 0.0

    def __enter__(self) -> Monitor:
        self._lined = self._tracked = self._began
        self._bar = _Bar(self.total) if self.shown and sys.stderr.isatty() else None
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look(last=True)
        if self._bar is not None:
            self._bar.close()

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._look(last=False)

    def _look(self, last: bool) -> None:
        try:
            stats = self.engine.stats()
        except Exception as error:  # the engine's thread changed what was being read: look again next time
            _log.debug("no totals this time: %s", error)
            return
        now = time.monotonic()
        rows = self.done + self.counts.rows
        text = self._text(stats, now - self._began)
        if self._bar is not None:
            self._bar.update(rows, text)
        elif self.shown and (last or now - self._lined >= LINE_SECONDS):
            self._lined = now
            total = "" if self.total is None else f"/{self.total}"
            print(f"{rows}{total} rows, {text}, {now - self._began:.0f} s", file=sys.stderr, flush=True)
        if last or now - self._tracked >= TRACK_SECONDS:
            self._tracked = now
            self.tracker.log_progress(rows, self._points(stats, now - self._began))

    def _text(self, stats: EngineStats, elapsed: float) -> str:
        tokens = stats.output_tokens or stats.prompt_tokens  # pooling models write none
        errors = f", {self.counts.errors} in error" if self.counts.errors else ""
        return f"{tokens / max(elapsed, 1e-9):,.0f} tokens/s{errors}"

    def _points(self, stats: EngineStats, elapsed: float) -> dict[str, float]:
        return {
            "progress/output_tokens_per_s": stats.output_tokens / max(elapsed, 1e-9),
            "progress/running": float(stats.running),
            "progress/waiting": float(stats.waiting),
            "progress/kv_use": stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0,
            "progress/errors": float(self.counts.errors),
        }


class _Bar:
    """rich's bar."""

    def __init__(self, total: int | None) -> None:
        from rich import progress
        from rich.console import Console

        self._progress = progress.Progress(
            progress.TextColumn("rows"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[text]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("rows", total=total, text="")
        self._progress.start()

    def update(self, completed: int, text: str) -> None:
        self._progress.update(self._task, completed=completed, text=text)

    def close(self) -> None:
        self._progress.stop()
