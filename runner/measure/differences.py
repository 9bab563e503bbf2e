"""Whether two sets of repeats differ: Welch's and the paired t-test, and Holm's correction for many metrics at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runner.measure.repeats import CONFIDENCE, FEWEST_REPEATS

Samples = npt.NDArray[np.float64]
ROUNDING = 1e-12  # relative; a spread below this is no spread


@dataclass(frozen=True)
class Difference:
    """The mean of B less the mean of A, in the metric's unit.

    Args:
        value: the difference.
        low, high: its 95% interval.
        p: probability of a difference at least as large where there is none (two-sided).
    """

    value: float
    low: float
    high: float
    p: float


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Two independent sets whose variances may differ (Welch 1947; degrees of freedom after Satterthwaite).

    Raises:
        ValueError: a set has fewer than ``FEWEST_REPEATS`` values.
    """
    _enough(a, b)
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    value = float(y.mean() - x.mean())
    parts = (float(x.var(ddof=1)) / x.size, float(y.var(ddof=1)) / y.size)
    error = sum(parts)
    if math.sqrt(error) <= ROUNDING * abs(float(x.mean())):
        return _certain(value, float(x.mean()))
    degrees = error**2 / (parts[0] ** 2 / (x.size - 1) + parts[1] ** 2 / (y.size - 1))
    return _interval(value, math.sqrt(error), degrees)


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Pairs that share what the machine was like at the time: A1 B1 A2 B2. A drift over the pairs drops out.

    Raises:
        ValueError: the sets are not equally long, or have fewer than ``FEWEST_REPEATS`` values.
    """
    _enough(a, b)
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return mean_difference(y - x, float(x.mean()))


def mean_difference(gains: Samples, scale: float) -> Difference:
    """The mean of differences within pairs, with Student's interval.

    Args:
        gains: B less A.  # [pairs]
        scale: size of the values that were subtracted, which says what is rounding.
    """
    error = float(gains.std(ddof=1)) / math.sqrt(gains.size)
    if error <= ROUNDING * abs(scale):
        return _certain(float(gains.mean()), scale)
    return _interval(float(gains.mean()), error, gains.size - 1)


def holm(p_values: Mapping[str, float], headline: str | None = None) -> dict[str, float]:
    """p-values corrected so that, over the whole table, one wrong "differs" appears in at most 5% of comparisons.

    Holm's step-down procedure with weights (Holm 1979): the headline metric, which is declared before anything is
    looked at, has half of the weight, the others share the other half. So the headline keeps its power however long
    the table is. Metrics may depend on each other in any way.

    Args:
        p_values: metric to p-value.
        headline: the metric with half of the weight; without one, or if it is not there, all weigh the same.
    """
    others = len(p_values) - (headline in p_values)
    weights = {name: 1.0 / max(others, 1) for name in p_values}
    if headline is not None and headline in p_values:
        weights[headline] = 1.0
    left, largest = sum(weights.values()), 0.0
    corrected = {}
    for name in sorted(p_values, key=lambda name: p_values[name] / weights[name]):
        largest = max(largest, min(p_values[name] * left / weights[name], 1.0))
        corrected[name] = largest
        left -= weights[name]
    return corrected


def _enough(a: Sequence[float], b: Sequence[float]) -> None:
    if min(len(a), len(b)) < FEWEST_REPEATS:
        raise ValueError(f"at least {FEWEST_REPEATS} values each are needed, there are {len(a)} and {len(b)}")


def _certain(value: float, scale: float) -> Difference:
    """Without any spread a difference is certain, and so is none."""
    if abs(value) <= ROUNDING * abs(scale):
        return Difference(0.0, 0.0, 0.0, 1.0)
    return Difference(value, value, value, 0.0)


def _interval(value: float, error: float, degrees: float) -> Difference:
    from scipy.special import stdtr, stdtrit  # here, because inspecting commands import this module too

    half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error
    return Difference(value, value - half, value + half, 2 * float(stdtr(degrees, -abs(value) / error)))
