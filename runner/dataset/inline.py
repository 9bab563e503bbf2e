"""Rows that stand in the configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.dataset.rows import Malformed, Record


@dataclass(frozen=True)
class InlineSource:
    """Mappings as they are; a text alone is the column ``text``."""

    rows: Sequence[Mapping[str, Any] | str]

    def read(self) -> Iterator[Record | Malformed]:
        """Every row as a record."""
        for row in self.rows:
            yield Record({"text": row} if isinstance(row, str) else row)

    def fingerprint(self) -> str:
        """sha256 of the rows as JSON."""
        return hashlib.sha256(json.dumps(list(self.rows), sort_keys=True, default=str).encode()).hexdigest()

    def count(self) -> int | None:
        """The number of rows."""
        return len(self.rows)

    def describe(self) -> str:
        """Says that the rows are in the configuration."""
        return "inline"
