"""requests.parquet as a stream of row groups: no more than one of them is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class RequestsFile:
    """Reads a requests.parquet, each time from its beginning. ``source``: a path, or an open file that can seek."""

    source: Path | BinaryIO

    def rows(self) -> int:
        """How many rows the file has.

        Raises:
            pyarrow.ArrowInvalid: it is no Parquet file.
        """
        with pq.ParquetFile(self.source) as file:
            return int(file.metadata.num_rows)

    def groups(self, *columns: str) -> Iterator[pa.Table]:
        """Each row group's columns. One thread: more of them each keep their own freed memory."""
        with pq.ParquetFile(self.source, pre_buffer=False) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=list(columns), use_threads=False)
