"""Statistics over repeats agree with scipy's own tests; the correction keeps its promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.measure.differences import holm, paired, welch
from runner.measure.repeats import spread

SAMPLES = st.lists(st.floats(1.0, 1e6), min_size=3, max_size=20)


def varied(values: list[float]) -> bool:
    return float(np.std(values)) > 1e-3


@given(SAMPLES.filter(varied), SAMPLES.filter(varied))
def test_welch_is_scipys(a: list[float], b: list[float]) -> None:
    expected = stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval(0.95)
    found = welch(a, b)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, *interval), rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=3, max_size=20))
def test_paired_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    if not varied([y - x for x, y in pairs]):
        return
    expected = stats.ttest_rel(b, a)
    found = paired(a, b)
    assert (found.p, found.low, found.high) == pytest.approx(
        (expected.pvalue, *expected.confidence_interval(0.95)), rel=1e-6, abs=1e-6
    )


def test_values_without_any_spread_are_certain() -> None:
    assert welch([0.1] * 3, [0.1] * 7).p == 1.0
    assert (welch([2.0] * 3, [3.0] * 3).p, welch([2.0] * 3, [3.0] * 3).low) == (0.0, 1.0)
    assert paired([1.0, 2.0, 3.0], [1.1, 2.1, 3.1]).low == pytest.approx(0.1)


@given(SAMPLES)
def test_a_spread_is_students_interval(values: list[float]) -> None:
    found = spread(values)
    assert (found.count, found.mean) == (len(values), pytest.approx(np.mean(values)))
    if varied(values):
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_fewer_than_three_repeats_say_so() -> None:
    assert spread([1.0, 3.0]).note == "needs at least 3 repeats, there are 2"
    assert (spread([1.0, 3.0]).low, spread([1.0, 3.0]).mean) == (None, 2.0)
    assert spread([5.0]).deviation is None
    assert spread([None, None], "p99 needs 100 samples").note == "p99 needs 100 samples"
    assert spread([1.0, None, 2.0, 3.0], "why").note == "1 of 4 repeats lack it (why)"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=15))
def test_unweighted_correction_is_holms(values: list[float]) -> None:
    names = {str(i): value for i, value in enumerate(values)}
    order = sorted(names, key=lambda name: names[name])
    expected: dict[str, float] = {}
    for place, name in enumerate(order):
        scaled = min((len(order) - place) * names[name], 1.0)
        expected[name] = max(scaled, *expected.values()) if expected else scaled
    assert holm(names) == pytest.approx(expected)


def test_a_headline_has_half_of_the_error_rate() -> None:
    found = holm({"headline": 0.02, **{str(i): 0.5 for i in range(20)}}, "headline")
    assert found["headline"] == pytest.approx(0.04)
    assert holm({"alone": 0.03}, "alone") == {"alone": 0.03}
