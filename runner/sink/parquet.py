"""Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any

from runner.record_json import from_json
from runner.sink.atomic import replaced

GROUP_ROWS = 2000  # rows of one row group, held in memory at once


class ParquetSink:
    """One column per field of the records, in row groups, zstd.

    The schema is found in a first pass over the records. A column whose rows do not agree on a type (a number here, a
    mapping there), or hold what no type of Parquet does (only empty mappings, larger numbers), is kept as JSON text.
    """

    file_name = "outputs.parquet"

    def write(self, read: Callable[[], Iterable[str]], path: Path) -> None:
        """Write all records (JSON texts, read twice) in their order, or leave the file as it was."""
        types, as_text = _find_types(read())
        while True:
            try:
                return _write(read(), types, as_text, path)
            except _MisfitError as misfit:  # found out only now: a whole number that the column's type rounds
                as_text.add(misfit.column)


class _MisfitError(Exception):
    """A column holds a value that its type cannot."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def _write(records: Iterable[str], types: Mapping[str, Any], as_text: Set[str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string() if name in as_text else kind) for name, kind in types.items()])
    with replaced(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for group in _groups(records):
            arrays = [
                _column(field, [_cell(row.get(field.name), field.name in as_text) for row in group]) for field in schema
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _column(field: Any, values: Sequence[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise _MisfitError(field.name) from None


def _groups(records: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
    rows = (from_json(record) for record in records)
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
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # also: a whole number of more than 64 bits
                types.setdefault(name, pa.string())
                as_text.add(name)
    return types, as_text | {name for name, kind in types.items() if _childless(kind)}


def _childless(kind: Any) -> bool:
    """Whether there are mappings without any key in it, for which Parquet has no type."""
    import pyarrow as pa

    parts = [kind.field(place).type for place in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not parts) or any(map(_childless, parts))


def _narrow(name: str, kind: Any) -> Any:
    """Embeddings are float32 in the engine: 64 bits would only double the file."""
    import pyarrow as pa

    return pa.list_(pa.float32()) if name == "output" and kind == pa.list_(pa.float64()) else kind
