"""A digest for each row of a run's dataset, so that a replay can name the rows that are no longer the same."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

from runner.dataset.rows import BadRow, Row

ROW_DIGESTS = "dataset_rows.sha256"
_log = logging.getLogger(__name__)

HEX_DIGITS = 32  # of sha256's 64: rows are told apart, nobody is fended off
MOST_NAMED = 5


class RowDigest(NamedTuple):
    """A row's content in short. ``row`` is its index, ``id`` is ``None`` for a row that could not be read."""

    row: int
    id: str | None
    digest: str


def digest_row(row: Row | BadRow) -> RowDigest:
    """Of all columns, whatever their order; of a row that cannot be read, what stands in its place."""
    content = row.error if isinstance(row, BadRow) else dict(row.columns)
    text = json.dumps(content, sort_keys=True, default=str)
    return RowDigest(row.index, row.id, hashlib.sha256(text.encode()).hexdigest()[:HEX_DIGITS])


class RowDigestFile:
    """Notes rows in the order in which they pass: a line each with digest, index and id, in bounded memory.

    Every session reads the dataset from its beginning, so every session writes the file anew. A disk that refuses it
    loses the file and not the run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._guarded(self._open)

    def add(self, row: Row | BadRow) -> None:
        """Note a row."""
        if self._file is not None:
            index, name, digest = digest_row(row)
            line = f"{digest} {index} {json.dumps(name)}\n"
            self._guarded(lambda: self._file.write(line) if self._file is not None else None)

    def close(self) -> None:
        """Write what is left."""
        if self._file is not None:
            self._guarded(self._file.close)

    def _open(self) -> None:
        self._file = self._path.open("w", encoding="utf-8")

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._path, error)
            self._file = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def read_row_digests(path: Path) -> Iterator[RowDigest]:
    """The noted rows.

    Raises:
        ValueError: a line is damaged; the message names it.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                digest, index, name = line.split(" ", 2)
                yield RowDigest(int(index), json.loads(name), digest)
            except ValueError:
                raise ValueError(f"{path} line {number} is not DIGEST INDEX ID") from None


@dataclass
class RowChanges:
    """Counts and the first names of rows that are not what they were; ``same`` counts those that are."""

    same: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"changed": 0, "missing": 0, "new": 0})
    named: dict[str, list[str]] = field(default_factory=lambda: {"changed": [], "missing": [], "new": []})

    def note(self, kind: str, row: RowDigest) -> None:
        """One more of a kind."""
        self.counts[kind] += 1
        if len(self.named[kind]) < MOST_NAMED:
            self.named[kind].append(f"row {row.row}" if row.id is None else repr(row.id))

    def lines(self) -> Iterator[str]:
        """A line for each kind of change that there is."""
        for kind, count in self.counts.items():
            if count:
                names = ", ".join(self.named[kind]) + (", …" if count > len(self.named[kind]) else "")
                yield f"{count:,} row{'s' if count > 1 else ''} {kind}: {names}"


def compare_rows(before: Iterable[RowDigest], now: Iterable[Row | BadRow]) -> RowChanges:
    """Match rows by id (bad rows by index). Both are read side by side; a row is held only until its partner comes."""
    found = RowChanges()
    waiting: tuple[dict[object, RowDigest], dict[object, RowDigest]] = ({}, {})
    sides = (iter(before), map(digest_row, now))
    while True:
        pair = [next(side, None) for side in sides]
        if pair == [None, None]:
            break
        for own, row in enumerate(pair):
            if row is None:
                continue
            key = row.row if row.id is None else row.id
            other = waiting[1 - own].pop(key, None)
            if other is None:
                waiting[own][key] = row
            elif other.digest == row.digest:
                found.same += 1
            else:
                found.note("changed", row)
    for kind, side in zip(("missing", "new"), waiting, strict=True):
        for row in side.values():
            found.note(kind, row)
    return found
