"""CSV and Parquet."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.dataset.files import count_lines, digest
from runner.dataset.rows import Malformed, Record
from runner.errors import ConfigError

BATCH_ROWS = 1024  # rows of a Parquet file that are held at once


@dataclass(frozen=True)
class CsvSource:
    """Reads CSV with a header line (RFC 4180, UTF-8 with or without a byte order mark). All values are text."""

    files: tuple[Path, ...]
    delimiter: str

    def read(self) -> Iterator[Record | Malformed]:
        """Every line after the header as a record."""
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the module's default refuses texts over 128 KiB
        for file in self.files:
            yield from self._read(file)

    def _read(self, file: Path) -> Iterator[Record | Malformed]:
        # surrogateescape keeps bytes that are not UTF-8 apart, so that one bad line does not end the file
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            # strict: a quote that is never closed would swallow all rows behind it as one cell
            reader = csv.reader(stream, delimiter=self.delimiter, strict=True)
            try:
                header = next((cells for cells in reader if cells), None)
            except csv.Error as error:
                raise ConfigError(f"{file} has a header that is not CSV: {error}") from None
            if header is None:
                return
            if len(set(header)) < len(header):
                raise ConfigError(f"{file} has two columns of the same name in its header: {', '.join(header)}")
            while True:
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    yield Malformed(f"{file} line {reader.line_num} is not CSV: {error}")
                    continue
                if cells is None:
                    return
                if cells:
                    yield _row(file, reader.line_num, header, cells)

    def fingerprint(self) -> str:
        """sha256 of the files' bytes."""
        return digest(self.files)

    def count(self) -> int | None:
        """The number of lines without headers; too high where cells hold line breaks."""
        return max(count_lines(self.files) - len(self.files), 0)

    def describe(self) -> str:
        """The files."""
        return ", ".join(map(str, self.files))


def _row(file: Path, number: int, header: list[str], cells: list[str]) -> Record | Malformed:
    if len(cells) != len(header):
        return Malformed(f"{file} line {number} has {len(cells)} cells, the header has {len(header)}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Malformed(f"{file} line {number} is not UTF-8")
    return Record(dict(zip(header, cells, strict=True)))


@dataclass(frozen=True)
class ParquetSource:
    """Reads Parquet in batches."""

    files: tuple[Path, ...]

    def read(self) -> Iterator[Record | Malformed]:
        """Every row as a record of Python values."""
        for file in self.files:
            with _open(file) as table:
                for batch in table.iter_batches(batch_size=BATCH_ROWS):
                    for columns in batch.to_pylist():
                        yield Record(columns)

    def fingerprint(self) -> str:
        """sha256 of the files' bytes."""
        return digest(self.files)

    def count(self) -> int | None:
        """The number of rows, from the files' metadata."""
        total = 0
        for file in self.files:
            with _open(file) as table:
                total += table.metadata.num_rows
        return total

    def describe(self) -> str:
        """The files."""
        return ", ".join(map(str, self.files))


def _open(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"dataset.path: {file} cannot be read as Parquet: {error}") from None
