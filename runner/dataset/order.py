"""Names, duplicates, order and limit, in bounded memory: what grows with the data lies in a temporary file."""

from __future__ import annotations

import hashlib
import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

from runner.dataset.rows import BadRow, Malformed, Record, Row
from runner.record_json import writable


def temporary_database() -> sqlite3.Connection:
    """An empty SQLite database in an unnamed temporary file (in ``SQLITE_TMPDIR`` or ``TMPDIR``), gone when closed."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;")
    return database


def name_rows(records: Iterable[Record | Malformed], id_column: str | None) -> Iterator[Row | BadRow]:
    """Give every record its index and id: the id column's value, else the source's own name, else the index.
    Lone surrogates in ids are spelt out, for they go into files of every kind."""
    for index, record in enumerate(records):
        if isinstance(record, Malformed):
            name = None if id_column is None else record.columns.get(id_column)
            yield BadRow(index, None if name is None else writable(str(name)), record.error)
        elif id_column is None:
            yield Row(index, str(index) if record.id is None else writable(record.id), record.columns)
        elif record.columns.get(id_column) is None:
            yield BadRow(index, None, f"row {index} has no value in the id column {id_column!r}")
        else:
            yield Row(index, writable(str(record.columns[id_column])), record.columns)


def refuse_duplicates(rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
    """Let the first row of each id pass; every later one becomes a bad row that names both.

    The ids seen lie in a temporary database, because a set of a million texts takes over 100 MB.
    """
    seen = temporary_database()
    seen.executescript("CREATE TABLE seen (id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID; BEGIN")
    try:
        for row in rows:
            if isinstance(row, Row):
                key = row.id
                if not seen.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, row.index)).rowcount:
                    first = seen.execute("SELECT row FROM seen WHERE id = ?", (key,)).fetchone()[0]
                    error = f"duplicate id {row.id!r}: row {row.index} has the id of row {first} (rows count from 0)"
                    yield BadRow(row.index, row.id, error)
                    continue
            yield row
    finally:
        seen.close()


def shuffle(rows: Iterable[Row | BadRow], seed: int, limit: int | None) -> Iterator[Row | BadRow]:
    """All rows, or a uniform sample of ``limit`` rows, in the order of sha256(seed, index).

    One pass writes the rows to a temporary database (on disk, about as large as the data), which then gives them back
    sorted: exact where a shuffle buffer is not, in the memory of SQLite's cache.
    """
    store = temporary_database()
    store.executescript("CREATE TABLE shuffled (key BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID; BEGIN")
    try:
        pairs = ((_key(seed, row.index), pickle.dumps(row)) for row in rows)
        store.executemany("INSERT INTO shuffled VALUES (?, ?)", pairs)
        query = store.execute("SELECT row FROM shuffled ORDER BY key LIMIT ?", (-1 if limit is None else limit,))
        for (row,) in query:
            yield pickle.loads(row)
    finally:
        store.close()


def sample(rows: Iterable[Row | BadRow], count: int, seed: int) -> Iterator[Row | BadRow]:
    """A uniform sample of ``count`` rows (all if there are no more) in the order in which they come.

    Those with the smallest sha256(seed, index), through a temporary database as in ``shuffle``. So a larger sample of
    the same seed holds the smaller one.
    """
    store = temporary_database()
    store.executescript("CREATE TABLE sampled (key BLOB PRIMARY KEY, place INTEGER, row BLOB) WITHOUT ROWID; BEGIN")
    try:
        entries = ((_key(f"sample-{seed}", row.index), place, pickle.dumps(row)) for place, row in enumerate(rows))
        store.executemany("INSERT INTO sampled VALUES (?, ?, ?)", entries)
        chosen = "SELECT place, row FROM sampled ORDER BY key LIMIT ?"
        for (row,) in store.execute(f"SELECT row FROM ({chosen}) ORDER BY place", (count,)):
            yield pickle.loads(row)
    finally:
        store.close()


def _key(seed: int | str, index: int) -> bytes:
    return hashlib.sha256(f"{seed}-{index}".encode()).digest()[:16]


def take(rows: Iterable[Row | BadRow], limit: int | None) -> Iterator[Row | BadRow]:
    """The first ``limit`` rows."""
    return islice(rows, limit)
