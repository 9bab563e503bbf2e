"""CSV and SQLite: a column for each field of the records. What is no number and no text is JSON text."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from runner.sink.atomic import replaced

Read = Callable[[], Iterable[str]]
TABLE = "outputs"


def write_csv(read: Read, path: Path) -> None:
    """Write all records (JSON texts, read twice) with a header line, RFC 4180, UTF-8; null is an empty cell."""
    names = _names(read())
    with (
        replaced(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(_rows(read(), names))


def write_sqlite(read: Read, path: Path) -> None:
    """Write all records (JSON texts, read twice) into the table ``outputs`` of a new database, in their order."""
    names = _names(read()) or ["id"]
    columns = ", ".join(_quoted(name) for name in names)
    with replaced(path) as temporary:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        database = sqlite3.connect(temporary, isolation_level=None)
        try:
            database.executescript(f"PRAGMA journal_mode=OFF; CREATE TABLE {TABLE} ({columns}); BEGIN")
            marks = ", ".join("?" * len(names))
            database.executemany(f"INSERT INTO {TABLE} VALUES ({marks})", _rows(read(), names))
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
        names.update(dict.fromkeys(json.loads(record)))
    return list(names)


def _rows(records: Iterable[str], names: list[str]) -> Iterator[list[Any]]:
    for record in records:
        row = json.loads(record)
        yield [_cell(row.get(name)) for name in names]


def _cell(value: Any) -> Any:
    if isinstance(value, bool) or not (value is None or isinstance(value, (str, int, float))):
        return json.dumps(value, ensure_ascii=False)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
