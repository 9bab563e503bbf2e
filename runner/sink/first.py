"""The first finished rows of a run folder, whichever sinks wrote them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any


def first_rows(run_dir: Path, most: int) -> list[dict[str, Any]]:
    """The first records of outputs.jsonl or outputs.parquet; none if there is neither."""
    lines = run_dir / "outputs.jsonl"
    if lines.is_file():
        with lines.open("rb") as stream:
            return [json.loads(line) for line in itertools.islice(stream, most)]
    table = run_dir / "outputs.parquet"
    if not table.is_file():
        return []
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        batch: Any = next(file.iter_batches(batch_size=most), None)
        return [] if batch is None else list(batch.to_pylist())
