"""How a run ended and how far it is, read from its journal while others may write to it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from runner.journal import FILE_NAME


@dataclass(frozen=True)
class Outcome:
    """A run that came to its end; ``problem`` says what is wrong with it all the same (too many rows in error, a
    requirement that is not met), with the exit code that this gives."""

    problem: str | None
    exit_code: int


def outcome(run_dir: Path) -> Outcome | None:
    """How the run ended; ``None`` if it has not, or if there is no such run."""
    rows = _query(run_dir, "SELECT key, value FROM meta WHERE key IN ('state', 'problem')")
    notes = {key: json.loads(value) for key, value in rows or ()}
    if notes.get("state") != "finished":
        return None
    problem = notes.get("problem")
    return Outcome(None, 0) if problem is None else Outcome(problem["message"], problem["exit_code"])


def finished_rows(run_dir: Path) -> int:
    """Rows that are durable now."""
    rows = _query(run_dir, "SELECT COUNT(*) FROM rows")
    return int(rows[0][0]) if rows else 0


def first_records(run_dir: Path, most: int) -> list[str]:
    """The first finished rows without error as lines of JSON, in the dataset's order, whichever sinks there are."""
    rows = _query(run_dir, f"SELECT record FROM rows WHERE error IS NULL ORDER BY idx LIMIT {most:d}")
    return [row[0] for row in rows or ()]


def _query(run_dir: Path, text: str) -> list[tuple[str, ...]] | None:
    path = run_dir / FILE_NAME
    if not path.is_file():
        return None
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
    except sqlite3.Error:
        return None
    try:
        return database.execute(text).fetchall()
    except sqlite3.Error:  # it is just being made
        return None
    finally:
        database.close()
