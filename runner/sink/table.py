"""CSV and SQLite: a column for each field of the records. What is no number and no text is JSON text."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from runner.record_json import from_json
from runner.sink.atomic import replaced

Read = Callable[[], Iterable[str]]
TABLE = "outputs"
LARGEST = 2**63 - 1  # whole number that SQLite holds


def write_csv(read: Read, path: Path) -> None:
    """Write all records (JSON texts, read twice) with a header line, RFC 4180, UTF-8; null is an empty cell."""
    names = _names(read())
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(_rows(read(), names, None))


def write_sqlite(read: Read, path: Path) -> None:
    """Write all records (JSON texts, read twice) into the table ``outputs`` of a new database, in their order."""
    names = _names(read()) or ["id"]
    columns = ", ".join(_quoted(name) for name in _apart(names))
    with replaced(path) as temporary:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        database = sqlite3.connect(temporary, isolation_level=None)
        try:
            database.executescript(f"PRAGMA journal_mode=OFF; CREATE TABLE {TABLE} ({columns}); BEGIN")
            marks = ", ".join("?" * len(names))
            database.executemany(f"INSERT INTO {TABLE} VALUES ({marks})", _rows(read(), names, LARGEST))
            if "id" in names:
                database.execute(f"CREATE INDEX {TABLE}_id ON {TABLE} (id)")
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(str(error)) from None  # the disk is full
        finally:
            database.close()


def _names(records: Iterable[str]) -> list[str]:
    """Every field of any record, in the order in which they come first."""
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(from_json(record)))
    return list(names)


def _rows(records: Iterable[str], names: list[str], largest: int | None) -> Iterator[list[Any]]:
    for record in records:
        row = from_json(record)
        yield [_cell(row.get(name), largest) for name in names]


def _cell(value: Any, largest: int | None) -> Any:
    """Numbers and texts as they are, if no whole number is above ``largest``; all else as JSON text."""
    if isinstance(value, bool) or not (value is None or isinstance(value, (str, int, float))):
        return json.dumps(value, ensure_ascii=False)
    return str(value) if largest is not None and isinstance(value, int) and abs(value) > largest else value


def _apart(names: Iterable[str]) -> list[str]:
    """The names, numbered where only their case tells them from one before: for SQLite they are the same."""
    apart: dict[str, str] = {}
    for name in names:
        number, free = 1, name
        while free.lower() in apart:
            number += 1
            free = f"{name}_{number}"
        apart[free.lower()] = free
    return list(apart.values())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
