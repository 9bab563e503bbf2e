"""The names of a load's phases in requests.parquet."""

from __future__ import annotations

WARMUP, MEASURED = "warmup", "measured"
TRIAL = "trial-"


def phase_of(trial: int) -> str:
    """The name of a search's trial, from 0."""
    return f"{TRIAL}{trial}"
