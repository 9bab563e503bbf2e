"""Synthetic rows as a file: made once, kept in the cache folder, known by the digest of what is in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.dataset import SyntheticDataset
from runner.dataset.rows import Malformed, Record
from runner.dataset.synthetic import SyntheticRows

GROUP_ROWS = 1024  # held in memory at once
DIGEST = b"galley_digest"


@dataclass(frozen=True)
class SyntheticSource:
    """Reads synthetic rows from a Parquet file, which is made when it is first needed; where there is no room for it
    they are drawn anew each time.

    ``fingerprint`` is of the rows themselves, so that a manifest says which tokens a run had, whatever made them.
    """

    section: SyntheticDataset

    @property
    def path(self) -> Path:
        """The file, named by what decides its rows."""
        from engine.model.cache import cache_folder

        return cache_folder() / "datasets" / f"synthetic-{SyntheticRows(self.section).declared()[:24]}.parquet"

    def read(self) -> Iterator[Record | Malformed]:
        """Every row as a record."""
        rows = SyntheticRows(self.section).rows() if self._kept is None else _stored(self.path)
        for columns in rows:
            yield Record(columns)

    def fingerprint(self) -> str:
        """sha256 of all token ids and lengths."""
        return self._kept or _digest(SyntheticRows(self.section).rows())

    def count(self) -> int | None:
        """The number of rows."""
        return self.section.rows

    def describe(self) -> str:
        """Number of rows and seed."""
        return f"synthetic ({self.section.rows} rows, seed {self.section.seed})"

    @cached_property
    def _kept(self) -> str | None:
        """The digest of the file, which is there from now on; ``None`` if it cannot be."""
        try:
            return _noted_digest(self.path) or _write(SyntheticRows(self.section), self.path)
        except OSError:
            return None


def _stored(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as table:
        for batch in table.iter_batches(batch_size=GROUP_ROWS):
            yield from batch.to_pylist()


def _noted_digest(path: Path) -> str | None:
    """The digest that a finished file notes; ``None`` where there is no such file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        noted = (pq.read_metadata(path).metadata or {}).get(DIGEST)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return None if noted is None else noted.decode()


def _write(rows: SyntheticRows, path: Path) -> str:
    """Make the file, a group of rows at a time, and give its digest. Several processes may do so at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("prompt_token_ids", pa.list_(pa.int32())), ("max_tokens", pa.int32())])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}-{os.getpid()}.partial")
    try:
        total, source = hashlib.sha256(), rows.rows()
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            while group := list(islice(source, GROUP_ROWS)):
                for row in group:
                    _add(total, row)
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
            writer.add_key_value_metadata({DIGEST: total.hexdigest().encode()})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return total.hexdigest()


def _digest(rows: Iterator[dict[str, Any]]) -> str:
    total = hashlib.sha256()
    for row in rows:
        _add(total, row)
    return total.hexdigest()


def _add(total: Any, row: Mapping[str, Any]) -> None:
    """Count a row in: its bound, its number of tokens, and the tokens, 32 bits each, little endian."""
    total.update(
        np.asarray([row["max_tokens"], len(row["prompt_token_ids"]), *row["prompt_token_ids"]], "<u4").tobytes()
    )
