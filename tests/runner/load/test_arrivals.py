"""Schedules are what their sections declare, and the same on every machine."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.load import BurstyLoad, ConstantLoad, PoissonLoad
from runner.load.arrivals import arrivals, arrivals_before, digest_of

COUNT = 20_000


def gaps(load: PoissonLoad | BurstyLoad) -> np.ndarray:  # type: ignore[type-arg]
    return np.diff(list(islice(arrivals(load), COUNT)))


def test_constant() -> None:
    assert list(islice(arrivals(ConstantLoad(rate=4.0)), 5)) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert arrivals_before(ConstantLoad(rate=4.0), 1.0) == 4


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_spread_of_their_distribution(burstiness: float) -> None:
    """A gamma distribution of shape k has the coefficient of variation 1/sqrt(k)."""
    found = gaps(BurstyLoad(rate=5.0, burstiness=burstiness, seed=3))
    assert found.mean() == pytest.approx(0.2, rel=0.04)
    assert found.std() / found.mean() == pytest.approx(burstiness**-0.5, rel=0.05)
    assert found.min() >= 0


def test_poisson_is_bursty_of_shape_1_and_exponential() -> None:
    found = gaps(PoissonLoad(rate=2.0, seed=9))
    assert np.array_equal(found, gaps(BurstyLoad(rate=2.0, burstiness=1.0, seed=9)))
    assert (found > 1.0).mean() == pytest.approx(np.exp(-2.0), rel=0.05)


def test_the_seed_decides_and_the_rate_only_scales() -> None:
    one, other = (list(islice(arrivals(PoissonLoad(rate=1.0, seed=seed)), 50)) for seed in (1, 2))
    assert one != other
    faster = list(islice(arrivals(PoissonLoad(rate=8.0, seed=1)), 50))
    assert faster == pytest.approx([moment / 8 for moment in one])


def test_schedules_never_change() -> None:
    """A replay on another machine or version must find the schedule that was written down."""
    assert digest_of(PoissonLoad(rate=10.0, seed=0), 1000) == POISSON
    assert digest_of(BurstyLoad(rate=10.0, burstiness=0.3, seed=0), 1000) == BURSTY


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 50), st.floats(0.2, 5), st.integers(0, 2**31), st.floats(0.1, 5))
def test_requests_before_a_moment_are_counted(rate: float, shape: float, seed: int, seconds: float) -> None:
    load = BurstyLoad(rate=rate, burstiness=shape, seed=seed)
    count = arrivals_before(load, seconds)
    moments = list(islice(arrivals(load), count + 1))
    assert moments == sorted(moments)
    assert moments[-1] >= seconds
    assert count == 0 or moments[-2] < seconds


POISSON = "sha256:56fa82aaa59e0f41c95b9158c1656aba21af611be91142aad57b5af2c225acfb"
BURSTY = "sha256:6195ac134405d3e606d5b4410c6189398ee4a9474b35ca32113705fb1e634754"
