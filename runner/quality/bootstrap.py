"""Bootstrap intervals of totals in memory that does not grow with the rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from runner.measure.repeats import CONFIDENCE

BUCKETS = 4096
"""Row i is summed into bucket i modulo this. Up to so many rows each has its own, and this is the ordinary bootstrap;
beyond, sums of rows are drawn instead of rows: they are as independent as rows, and thousands of them are plenty."""

RESAMPLES = 1000
FEWEST_ROWS = 10
SEED = 0

Array = npt.NDArray[np.float64]


class BucketSums:
    """Sums of the rows' statistics, per bucket. ``sums`` is [buckets, statistics], ``rows`` [buckets]."""

    def __init__(self) -> None:
        self._sums: Array | None = None
        self._rows = np.zeros(BUCKETS)
        self.count = 0

    def add(self, statistics: tuple[float, ...]) -> None:
        """One more row."""
        if self._sums is None:
            self._sums = np.zeros((BUCKETS, len(statistics)))
        bucket = self.count % BUCKETS
        self._sums[bucket] += statistics
        self._rows[bucket] += 1
        self.count += 1

    def total(self, figures: Callable[[Array, float], tuple[float, ...]]) -> tuple[float, ...] | None:
        """The figures over all rows; ``None`` if there are none."""
        return None if self._sums is None else figures(self._sums.sum(axis=0), float(self.count))

    def intervals(self, figures: Callable[[Array, float], tuple[float, ...]]) -> list[tuple[float, float]] | None:
        """Each figure's 95% interval from percentiles of resampled totals (Efron 1979), always with the same draws.

        ``None`` below ``FEWEST_ROWS``: resampling a handful of rows gives intervals that are far too narrow.
        """
        if self._sums is None or self.count < FEWEST_ROWS:
            return None
        used = min(self.count, BUCKETS)
        sums, rows = self._sums[:used], self._rows[:used]
        rng = np.random.default_rng(SEED)
        draws = []
        for _ in range(RESAMPLES):
            times = np.bincount(rng.integers(used, size=used), minlength=used)  # [buckets]
            draws.append(figures(times @ sums, float(times @ rows)))
        tail = (1 - CONFIDENCE) / 2 * 100
        low, high = np.percentile(np.array(draws), [tail, 100 - tail], axis=0)
        return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
