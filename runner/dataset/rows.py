"""Rows, and what stands in the place of one that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``index`` is its place in the dataset as stored, from 0, whatever order rows are started in."""

    index: int
    id: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be run; ``error`` says why and where it stands. ``id`` is ``None`` if it could not be read."""

    index: int
    id: str | None
    error: str


@dataclass(frozen=True, slots=True)
class Record:
    """What a source reads. ``id`` is the source's own name for it (a file's path), ``None`` if it has none."""

    columns: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """What a source could not make a row of; ``error`` names file and line. ``columns`` is what could be read all the
    same: it may hold the row's id."""

    error: str
    columns: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """Reads records from wherever they are; every call of ``read`` begins anew and yields the same records."""

    def read(self) -> Iterator[Record | Malformed]:
        """All records in their stored order, one at a time."""

    def fingerprint(self) -> str:
        """sha256 (hex) of the content: equal for the same records wherever they lie."""

    def count(self) -> int | None:
        """About how many records there are, for a progress bar; ``None`` if that is not known cheaply."""

    def describe(self) -> str:
        """Where the records come from."""
