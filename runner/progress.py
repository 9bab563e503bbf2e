"""How far a run is, for the person who waits."""

from __future__ import annotations

import sys
import time
from types import TracebackType

REDRAW_SECONDS = 0.2
LINE_SECONDS = 5.0


class Progress:
    """A bar with rows, errors, tokens/s and the time left; lines every few seconds where the output is no terminal.

    Args:
        total: rows to run, about; ``None`` if unknown.
        done: rows that earlier sessions finished.
        enabled: False shows nothing.
    """

    def __init__(self, total: int | None, done: int, enabled: bool) -> None:
        self._total, self._done = total, done
        self._rows = self._errors = self._tokens = 0
        self._began = time.monotonic()
        self._shown = self._began
        self._bar = _Bar(total, done) if enabled and sys.stderr.isatty() else None
        self._lines = enabled and self._bar is None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._done + self._rows, self._text())
            self._bar.close()
        elif self._lines and self._rows:
            self._print()

    def add(self, tokens: int, error: bool) -> None:
        """One more finished row."""
        self._rows += 1
        self._tokens += tokens
        self._errors += error
        now = time.monotonic()
        if self._bar is not None and now - self._shown >= REDRAW_SECONDS:
            self._bar.update(self._done + self._rows, self._text())
            self._shown = now
        elif self._lines and now - self._shown >= LINE_SECONDS:
            self._print()
            self._shown = now

    @property
    def rows(self) -> int:
        """Rows that this session finished."""
        return self._rows

    @property
    def errors(self) -> int:
        """How many of them in error."""
        return self._errors

    def tokens_per_second(self) -> float:
        """Output tokens of this session's finished rows per second."""
        return self._tokens / max(time.monotonic() - self._began, 1e-9)

    def _text(self) -> str:
        errors = f", {self._errors} in error" if self._errors else ""
        return f"{self.tokens_per_second():,.0f} tokens/s{errors}"

    def _print(self) -> None:
        total = "" if self._total is None else f"/{self._total}"
        elapsed = time.monotonic() - self._began
        line = f"{self._done + self._rows}{total} rows, {self._text()}, {elapsed:.0f} s"
        print(line, file=sys.stderr, flush=True)


class _Bar:
    """rich's bar."""

    def __init__(self, total: int | None, done: int) -> None:
        from rich import progress
        from rich.console import Console

        self._progress = progress.Progress(
            progress.TextColumn("rows"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("rows", total=total, completed=done, speed="")
        self._progress.start()

    def update(self, completed: int, text: str) -> None:
        self._progress.update(self._task, completed=completed, speed=text)

    def close(self) -> None:
        self._progress.stop()
