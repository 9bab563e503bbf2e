"""requests.parquet as a stream of row groups: no more than one of them is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


@dataclass(frozen=True)
class RequestsFile:
    """Reads a requests.parquet, each time from its beginning.

    Args:
        source: a path, or an open file that can seek.
        phase: of a load's requests only those of this phase; ``None`` takes all.
    """

    source: Path | BinaryIO
    phase: str | None = None

    def of_phase(self, phase: str | None) -> RequestsFile:
        """The same file, of which only a phase's requests are read."""
        return replace(self, phase=phase)

    def rows(self) -> int:
        """How many rows the file has, of all phases.

        Raises:
            pyarrow.ArrowInvalid: it is no Parquet file.
        """
        with pq.ParquetFile(self.source) as file:
            return int(file.metadata.num_rows)

    def groups(self, *columns: str) -> Iterator[pa.Table]:
        """Each row group's columns. One thread: more of them each keep their own freed memory."""
        wanted = [*columns, *(["phase"] if self.phase is not None and "phase" not in columns else [])]
        with pq.ParquetFile(self.source, pre_buffer=False) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=wanted, use_threads=False)
                yield table if self.phase is None else table.filter(pc.equal(table.column("phase"), self.phase))
