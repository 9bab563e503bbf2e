"""One JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.dataset.files import count_lines, digest, lines
from runner.dataset.rows import Malformed, Record


@dataclass(frozen=True)
class JsonlSource:
    """Reads JSON lines; empty lines are skipped, any other line that is no object is malformed."""

    files: tuple[Path, ...]

    def read(self) -> Iterator[Record | Malformed]:
        """Every line as a record."""
        for file in self.files:
            for number, line in lines(file):
                if line.strip():
                    yield parse_line(file, number, line)

    def fingerprint(self) -> str:
        """sha256 of the files' bytes."""
        return digest(self.files)

    def count(self) -> int | None:
        """The number of lines."""
        return count_lines(self.files)

    def describe(self) -> str:
        """The files."""
        return ", ".join(map(str, self.files))


def parse_line(file: Path, number: int, line: bytes) -> Record | Malformed:
    """One line of a file as a record."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Malformed(f"{file} line {number} is not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # not UTF-8; a number of thousands of digits; nested too deep
        return Malformed(f"{file} line {number} is not JSON: {error}")
    if not isinstance(value, dict):
        return Malformed(f"{file} line {number} is not a JSON object but {type(value).__name__}")
    return Record(value)
