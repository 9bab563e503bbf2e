"""A thread that makes finished rows durable while the engine computes the next ones.

Group commit: it takes whatever is finished, writes it in one transaction, and looks again. A row waits for one commit
at most, and the engine's loop never waits for the disk unless the disk cannot keep up.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from runner.errors import RunFailedError
from runner.journal import Entry, Journal
from runner.record_json import to_json

MOST_ROWS = 2000  # rows of one transaction
MOST_WAITING = 10_000  # rows that may wait for the disk; more make the engine's loop wait
GATHER_SECONDS = 0.005  # pause after a large commit: rows come fast, and larger commits are cheaper


class Finished(NamedTuple):
    """A finished row before its record is JSON; ``entry`` has an empty record."""

    entry: Entry
    record: Mapping[str, Any]


class Writer:
    """Writes to the journal, and appends successful records to a live file. Leaving its context writes the rest.

    Args:
        journal: used by the writer's thread alone until the writer is closed.
        live: JSON lines file for those who look on; ``None`` for none.
        session: the session's number.
        startup_seconds: of the session.
        measured_from: ``time.monotonic`` at the beginning of the measured phase.
    """

    def __init__(
        self, journal: Journal, live: Path | None, session: int, startup_seconds: float, measured_from: float
    ) -> None:
        self._journal = journal
        self._session = session
        self._startup_seconds = startup_seconds
        self._measured_from = measured_from
        self._queue: SimpleQueue[Finished | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._live: TextIO | None = live.open("a", encoding="utf-8") if live is not None else None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, finished: Finished) -> None:
        """Hand over a finished row; waits if too many wait already.

        Raises:
            RunFailedError: an earlier row could not be written.
        """
        self._queue.put(finished)
        while self._failure is None and self._queue.qsize() > MOST_WAITING:
            time.sleep(0.001)
        if self._failure is not None:
            raise _explain(self._failure)

    def close(self) -> None:
        """Write what is waiting and end the thread.

        Raises:
            RunFailedError: a row could not be written.
        """
        self._queue.put(None)
        self._thread.join()
        if self._live is not None:
            try:
                self._live.close()
            except OSError as error:
                self._failure = self._failure or error
        if self._failure is not None:
            raise _explain(self._failure)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except RunFailedError:
            if error is None or isinstance(error, RunFailedError):
                raise
            # an interrupt or the engine's own failure is the one to report

    def _run(self) -> None:
        try:
            while (batch := self._gather()) is not None:
                self._write(batch)
                if len(batch) >= MOST_ROWS // 20:
                    time.sleep(GATHER_SECONDS)
        except BaseException as error:
            self._failure = error  # raised in the main thread by put and close

    def _gather(self) -> list[Finished] | None:
        """All rows that wait, at least one; ``None`` at the end."""
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < MOST_ROWS:
            try:
                more = self._queue.get_nowait()
            except Empty:
                break
            if more is None:
                self._queue.put(None)
                break
            batch.append(more)
        return batch

    def _write(self, batch: list[Finished]) -> None:
        entries = [finished.entry._replace(record=to_json(finished.record)) for finished in batch]
        elapsed = time.monotonic() - self._measured_from
        self._journal.append(entries, self._session, self._startup_seconds, elapsed)
        if self._live is not None:
            self._live.write("".join(entry.record + "\n" for entry in entries if entry.error is None))
            self._live.flush()


def _explain(error: BaseException) -> RunFailedError:
    if isinstance(error, (OSError, sqlite3.Error)):
        return RunFailedError(f"a finished row could not be written: {error}. Is the disk full?")
    return RunFailedError(f"a finished row could not be written: {type(error).__name__}: {error}")
