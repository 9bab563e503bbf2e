"""Quality metrics of two sets: rows are the unit, because the same rows went through both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runner.compare.run_set import RunSet
from runner.compare.timings import Line
from runner.measure.differences import mean_difference
from runner.measure.repeats import spread
from runner.quality.bootstrap import FEWEST_ROWS

SCORES = "scores.parquet"


def quality_lines(a: RunSet, b: RunSet) -> list[Line]:
    """An undecided line for each figure that both sets have, over the rows that were judged in both.

    A row's figure is its mean over the set's repeats. Corpus figures (BLEU, chrF) appear as means over the rows. The
    rows' ids and figures are held, not their texts.
    """
    tables = [_means(runs) for runs in (a, b)]
    if any(table is None for table in tables):
        return []
    first, second = tables
    names = [name for name in first.column_names if name != "id" and name in second.column_names]
    both = first.join(second, "id", right_suffix="/b", join_type="inner", use_threads=False)
    return [_line(name, both[name], both[f"{name}/b"]) for name in names]


def _means(runs: RunSet) -> pa.Table:
    """Each row's mean figures over the repeats; ``None`` if no run has any."""
    paths = [run.run_dir / SCORES for run in runs.runs if (run.run_dir / SCORES).is_file()]
    if not paths:
        return None
    tables = [_read(path) for path in paths]
    names = [name for name in tables[0].column_names if name != "id"]
    merged = pa.concat_tables([table.select(["id", *names]) for table in tables if {*names} <= {*table.column_names}])
    found = merged.group_by("id", use_threads=False).aggregate([(name, "mean") for name in names])
    return found.select(["id", *(f"{name}_mean" for name in names)]).rename_columns(["id", *names])


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, use_threads=False)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error


def _line(name: str, a: pa.ChunkedArray, b: pa.ChunkedArray) -> Line:
    x, y = (np.asarray(side.to_numpy(), dtype=np.float64) for side in (a, b))  # [rows], null as NaN
    judged = ~(np.isnan(x) | np.isnan(y))
    x, y = x[judged], y[judged]
    sides = (spread(x.tolist()), spread(y.tolist()))
    if x.size < FEWEST_ROWS:
        why = f"needs at least {FEWEST_ROWS} rows that were judged in both, there are {x.size}"
        return Line(name, *sides, None, None, "not enough data", why)
    return Line(name, *sides, mean_difference(y - x, float(x.mean())), None, "not enough data")
