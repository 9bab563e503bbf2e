"""Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from runner.sink.atomic import replaced

GROUP_ROWS = 2000  # rows of one row group, held in memory at once


class ParquetSink:
    """One column per field of the records, in row groups, zstd.

    The schema is found in a first pass over the records. A column whose rows do not agree on a type (a number here, a
    mapping there) is kept as JSON text.
    """

    file_name = "outputs.parquet"

    def write(self, read: Callable[[], Iterable[str]], path: Path) -> None:
        """Write all records (JSON texts, read twice) in their order, or leave the file as it was."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types, as_text = _find_types(read())
        schema = pa.schema([(name, pa.string() if name in as_text else kind) for name, kind in types.items()])
        with replaced(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in _groups(read()):
                columns = {name: [_cell(row.get(name), name in as_text) for row in group] for name in types}
                arrays = [pa.array(columns[field.name], field.type) for field in schema]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _groups(records: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
    rows = (json.loads(record) for record in records)
    while group := list(islice(rows, GROUP_ROWS)):
        yield group


def _cell(value: Any, as_text: bool) -> Any:
    return json.dumps(value, ensure_ascii=False) if as_text and value is not None else value


def _find_types(records: Iterable[str]) -> tuple[dict[str, Any], set[str]]:
    """Column to Arrow type over all records, and the columns without a common type."""
    import pyarrow as pa

    types: dict[str, Any] = {}
    as_text: set[str] = set()
    for group in _groups(records):
        for name in dict.fromkeys(key for row in group for key in row):
            try:
                kind = _narrow(name, pa.array([row.get(name) for row in group]).type)
                if name in types and types[name] != kind:
                    fields = [pa.schema([(name, types[name])]), pa.schema([(name, kind)])]
                    kind = pa.unify_schemas(fields, promote_options="permissive").field(0).type
                types[name] = kind
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                types.setdefault(name, pa.string())
                as_text.add(name)
    return types, as_text


def _narrow(name: str, kind: Any) -> Any:
    """Embeddings are float32 in the engine: 64 bits would only double the file."""
    import pyarrow as pa

    return pa.list_(pa.float32()) if name == "output" and kind == pa.list_(pa.float64()) else kind
