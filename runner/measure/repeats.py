"""Mean, spread and confidence intervals over repeats of one configuration: the repeat is the unit.

Requests of one run share its machine, its order and its batch, so that a thousand of them are no thousand independent
samples of "how fast is this configuration". Repeats of the run are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_REPEATS = 3
"""Below this there is no interval: with two repeats the 95% quantile of Student's t is 12.7 standard errors."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A metric over repeats, in the metric's unit.

    Args:
        count: repeats that have the metric.
        mean: ``None`` without repeats.
        deviation: sample standard deviation (divisor count - 1); ``None`` below two repeats.
        low, high: the mean's 95% interval, Student's t; ``None`` below ``FEWEST_REPEATS``.
        note: why something is ``None``; empty if nothing is.
    """

    count: int
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None
    note: str = ""


def spread(values: Sequence[float | int | None], note: str = "") -> Spread:
    """Mean, standard deviation and 95% interval of the mean.

    Args:
        values: one per repeat; a repeat without the metric has ``None`` and does not count.
        note: why a repeat lacks the metric, as its metrics.json says (too few samples for the percentile).
    """
    present = np.array([value for value in values if value is not None], dtype=np.float64)
    count = int(present.size)
    if count == 0:
        return Spread(0, None, None, None, None, note or "not measured")
    mean = float(present.mean())
    deviation = float(present.std(ddof=1)) if count > 1 else None
    missing = len(values) - count
    gaps = f"{missing} of {len(values)} repeats lack it{f' ({note})' if note else ''}" if missing else ""
    if deviation is None or count < FEWEST_REPEATS:
        return Spread(count, mean, deviation, None, None, too_few(count) + (f"; {gaps}" if gaps else ""))
    half = _quantile(count - 1) * deviation / math.sqrt(count)
    return Spread(count, mean, deviation, mean - half, mean + half, gaps)


def too_few(count: int) -> str:
    """The note for fewer repeats than an interval needs."""
    return f"needs at least {FEWEST_REPEATS} repeats, there {'is' if count == 1 else 'are'} {count}"


def _quantile(degrees: float) -> float:
    from scipy.special import stdtrit  # here, because inspecting commands import this module too

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
