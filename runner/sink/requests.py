"""requests.parquet: times and token counts of every request."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from runner.sink.atomic import replaced

GROUP_ROWS = 10_000


def requests_schema() -> Any:
    """The columns; times are seconds since the session's measured phase began, null where the moment never came.

    ``arrival_s`` of a load is when the request was to arrive; ``sent_s``, ``phase`` and ``gaps_s`` are of loads alone.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("index", pa.int64()),
            ("id", pa.string()),
            ("session", pa.int32()),
            ("prompt_tokens", pa.int32()),
            ("cached_tokens", pa.int32()),
            ("output_tokens", pa.int32()),
            ("arrival_s", pa.float64()),
            ("scheduled_s", pa.float64()),
            ("first_token_s", pa.float64()),
            ("last_token_s", pa.float64()),
            ("preemptions", pa.int32()),
            ("finish_reason", pa.string()),
            ("error", pa.string()),
            ("sent_s", pa.float64()),
            ("phase", pa.string()),
            ("gaps_s", pa.list_(pa.float32())),
        ]
    )


def write_requests(rows: Iterable[tuple[Any, ...]], path: Path) -> None:
    """Write the journal's requests (in the schema's order of columns) in row groups."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, source = requests_schema(), iter(rows)
    with replaced(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while group := list(islice(source, GROUP_ROWS)):
            columns = [*zip(*group, strict=True)]
            columns[-1] = tuple(None if gaps is None else np.frombuffer(gaps, np.float32) for gaps in columns[-1])
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
