"""The journal: every finished row of a run in one SQLite file. It is the truth; every output is a view of it.

A row's ``idx`` is the primary key, so that no row can be there twice (ids are checked for duplicates as they are read,
which spares a second index). The write-ahead log with ``synchronous=NORMAL`` hands every commit to the operating
system: a killed process loses nothing that was committed; a power cut may lose the last moments, never the file's
integrity.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.run_info import Session

FILE_NAME = "journal.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (number INTEGER PRIMARY KEY, started_at REAL, startup_seconds REAL,
    measured_seconds REAL, rows INTEGER, status TEXT);
CREATE TABLE IF NOT EXISTS rows (idx INTEGER PRIMARY KEY, id TEXT, session INTEGER, record TEXT,
    prompt_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER, arrival_s REAL, scheduled_s REAL,
    first_token_s REAL, last_token_s REAL, preemptions INTEGER, finish_reason TEXT, error TEXT,
    sent_s REAL, phase TEXT, gaps BLOB);
"""


class Entry(NamedTuple):
    """A finished row as the journal keeps it; ``record`` is JSON, times are seconds of the session's measured phase.

    The last three are of loads: when the request was really sent, the phase that it belongs to, and the seconds between
    its outputs as float32.
    """

    idx: int
    id: str | None
    session: int
    record: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    arrival_s: float | None
    scheduled_s: float | None
    first_token_s: float | None
    last_token_s: float | None
    preemptions: int
    finish_reason: str | None
    error: str | None
    sent_s: float | None = None
    phase: str | None = None
    gaps: bytes | None = None


class DoneRows:
    """The indices of finished rows as ranges: few, because rows finish nearly in order."""

    def __init__(self, indices: Iterator[int]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.count = 0
        for index in indices:
            self.count += 1
            if self._ends and index == self._ends[-1] + 1:
                self._ends[-1] = index
            else:
                self._starts.append(index)
                self._ends.append(index)

    def __contains__(self, index: int) -> bool:
        place = bisect_right(self._starts, index) - 1
        return place >= 0 and index <= self._ends[place]


class Journal:
    """One run's journal, used by one process and by one thread at a time.

    Raises:
        sqlite3.Error: the file cannot be opened or is no database.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}")

    def close(self) -> None:
        """Give the file back; everything committed stays."""
        self._db.close()

    def get(self, key: str) -> Any:
        """A value of the run's own notes, ``None`` if there is none."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def set(self, **values: Any) -> None:
        """Note values (plain data), all or none."""
        pairs = [(key, json.dumps(value)) for key, value in values.items()]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", pairs)
        self._db.execute("COMMIT")

    def begin_session(self, started_at: float) -> int:
        """The number of a new session. A session that never ended was killed."""
        self._db.execute("UPDATE sessions SET status = 'KILLED' WHERE status = 'RUNNING'")
        number = int(self._db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM sessions").fetchone()[0])
        self._db.execute("INSERT INTO sessions VALUES (?, ?, 0, 0, 0, 'RUNNING')", (number, started_at))
        return number

    def update_session(
        self, number: int, startup_seconds: float, measured_seconds: float, status: str = "RUNNING"
    ) -> None:
        """Note how far a session is; its rows are counted."""
        self._db.execute(
            "UPDATE sessions SET startup_seconds = ?, measured_seconds = ?, status = ?,"
            " rows = (SELECT COUNT(*) FROM rows WHERE session = number) WHERE number = ?",
            (startup_seconds, measured_seconds, status, number),
        )

    def append(self, entries: Sequence[Entry], session: int, startup_seconds: float, measured_seconds: float) -> None:
        """Make rows durable, all or none, with the session's times, so that a killed session has them too.

        Raises:
            sqlite3.OperationalError: the disk is full or cannot be written.
        """
        marks = ", ".join("?" * len(Entry._fields))
        try:
            self._db.execute("BEGIN")
            self._db.executemany(f"INSERT INTO rows VALUES ({marks})", entries)
            self._db.execute(
                "UPDATE sessions SET startup_seconds = ?, measured_seconds = ?, rows = rows + ? WHERE number = ?",
                (startup_seconds, measured_seconds, len(entries), session),
            )
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def sessions(self) -> list[Session]:
        """All sessions in their order."""
        return [Session(*row) for row in self._db.execute("SELECT * FROM sessions ORDER BY number")]

    def done(self) -> DoneRows:
        """Which rows are finished, in error or not."""
        return DoneRows(row[0] for row in self._db.execute("SELECT idx FROM rows ORDER BY idx"))

    def counts(self) -> tuple[int, int]:
        """How many rows are finished, and how many of them in error."""
        rows, errors = self._db.execute("SELECT COUNT(*), COUNT(error) FROM rows").fetchone()
        return int(rows), int(errors)

    def records(self, *, errors: bool) -> Iterator[str]:
        """The records as JSON in the order of the dataset, streamed: those in error, or the others."""
        which = "IS NOT NULL" if errors else "IS NULL"
        for (record,) in self._db.execute(f"SELECT record FROM rows WHERE error {which} ORDER BY idx"):
            yield record

    def first_error(self) -> str | None:
        """The first row's error in the order of the dataset."""
        found = self._db.execute("SELECT error FROM rows WHERE error IS NOT NULL ORDER BY idx LIMIT 1").fetchone()
        return None if found is None else str(found[0])

    def requests(self) -> Iterator[tuple[Any, ...]]:
        """Every field but the record of every row, in the order of the dataset."""
        names = ", ".join(name for name in Entry._fields if name != "record")
        yield from self._db.execute(f"SELECT {names} FROM rows ORDER BY idx")
