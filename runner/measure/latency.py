"""Per-request times and their statistics: of all the times one kind at a time, 8 bytes for each row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runner.measure.definitions import MINIMUM_SAMPLES, PERCENTILES
from runner.measure.requests_file import RequestsFile

Milliseconds = npt.NDArray[np.float64]

SPANS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ttft_ms": ("arrival_s", "first_token_s"),
        "tpot_ms": ("first_token_s", "last_token_s"),
        "e2e_ms": ("arrival_s", "last_token_s"),
        "queue_ms": ("arrival_s", "scheduled_s"),
    }
)
"""Each time's first and last moment, as columns of requests.parquet."""

LOAD_SPANS: Mapping[str, tuple[str, str]] = MappingProxyType({"lag_ms": ("arrival_s", "sent_s")})
"""Those that only loads have."""


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


def request_times(requests: RequestsFile, name: str) -> Milliseconds:
    """One of ``SPANS`` or ``LOAD_SPANS`` of each row that has it, in ms; rows without are left out, not counted as 0.

    # [samples]
    """
    start, end = SPANS[name] if name in SPANS else LOAD_SPANS[name]
    found = np.empty(requests.rows())
    size = 0
    for group in requests.groups(start, end, "output_tokens", "finish_reason", "error"):
        ok = without_error(group)
        times = _divided(name, column(ok, end) - column(ok, start), column(ok, "output_tokens"))
        times = times[~np.isnan(times)]
        found[size : size + times.size] = times * 1e3
        size += times.size
    return found[:size]


def _divided(name: str, spans: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The spans as their metric defines them, NaN where a row has too few tokens for it."""
    if name == "tpot_ms":
        return spans / np.where(tokens >= 2, tokens - 1, np.nan)
    return np.where(tokens >= 1, spans, np.nan) if name == "ttft_ms" else spans


def statistics(name: str, samples: Milliseconds) -> tuple[dict[str, float | None], dict[str, str]]:
    """Mean and percentiles of the samples as ``name/p99``, and a note for each that has too few samples.

    Percentiles interpolate linearly between the two nearest samples (numpy's default). The samples are sorted in place.
    """
    values: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    samples.sort()
    for statistic, needed in MINIMUM_SAMPLES.items():
        key = f"{name}/{statistic}"
        if samples.size < needed:
            values[key] = None
            notes[key] = f"needs at least {needed} sample{'s' * (needed > 1)}, there are {samples.size}"
        elif statistic == "mean":
            values[key] = float(samples.mean())
        else:  # overwrite_input spares a copy: partitioning what is sorted changes nothing
            values[key] = float(np.percentile(samples, PERCENTILES[statistic], overwrite_input=True))
    return values, notes


def total(table: pa.Table, name: str) -> int:
    """The sum of an integer column, 0 for no rows; 64 bits wide whatever the column's type."""
    result: Any = pc.sum(pc.cast(table.column(name), pa.int64())).as_py()
    return int(result or 0)
