"""Per-request times and their statistics, as array operations: a million requests take a few arrays of 8 MB."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runner.measure.definitions import MINIMUM_SAMPLES, PERCENTILES

Milliseconds = npt.NDArray[np.float64]


def column(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """One column as float64 with nulls as NaN.  # [rows]"""
    values: npt.NDArray[np.float64] = np.asarray(
        pc.cast(table.column(name), pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64
    )
    return values


def without_error(table: pa.Table) -> pa.Table:
    """The rows that finished without error: no error text, and a finish reason other than ``error``."""
    failed = pc.or_(
        pc.is_valid(table.column("error")),
        pc.fill_null(pc.equal(table.column("finish_reason"), "error"), False),
    )
    return table.filter(pc.invert(failed))


def request_times(ok: pa.Table) -> dict[str, Milliseconds]:
    """TTFT, TPOT, E2E and queue time of each row that has them, in ms; rows without are left out, not counted as 0."""
    arrival, scheduled = column(ok, "arrival_s"), column(ok, "scheduled_s")
    first, last = column(ok, "first_token_s"), column(ok, "last_token_s")
    tokens = column(ok, "output_tokens")
    gaps = np.where(tokens >= 2, tokens - 1, np.nan)
    times = {
        "ttft_ms": np.where(tokens >= 1, first - arrival, np.nan),
        "tpot_ms": (last - first) / gaps,
        "e2e_ms": last - arrival,
        "queue_ms": scheduled - arrival,
    }
    return {name: values[~np.isnan(values)] * 1e3 for name, values in times.items()}


def statistics(name: str, samples: Milliseconds) -> tuple[dict[str, float | None], dict[str, str]]:
    """Mean and percentiles of the samples as ``name/p99``, and a note for each that has too few samples.

    Percentiles interpolate linearly between the two nearest samples (numpy's default).
    """
    values: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    ordered = np.sort(samples)
    for statistic, needed in MINIMUM_SAMPLES.items():
        key = f"{name}/{statistic}"
        if ordered.size < needed:
            values[key] = None
            notes[key] = f"needs at least {needed} sample{'s' * (needed > 1)}, there are {ordered.size}"
        elif statistic == "mean":
            values[key] = float(ordered.mean())
        else:
            values[key] = float(np.percentile(ordered, PERCENTILES[statistic]))
    return values, notes


def total(table: pa.Table, name: str) -> int:
    """The sum of an integer column, 0 for no rows; 64 bits wide whatever the column's type."""
    result: Any = pc.sum(pc.cast(table.column(name), pa.int64())).as_py()
    return int(result or 0)
