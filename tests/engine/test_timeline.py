"""The bounded timeline and the seeds of requests that name none."""

from __future__ import annotations

import itertools

from engine.seeds import derive_seed
from engine.stats import TimelinePoint
from engine.timeline import CAPACITY, Timeline


def test_points_stay_bounded_and_evenly_spread() -> None:
    timeline = Timeline()
    for step in range(10_000):
        timeline.add(TimelinePoint(float(step), 1, 0, 0.5, step))
    times = [point.time for point in timeline.points()]
    assert CAPACITY // 4 < len(times) < CAPACITY
    assert len({later - earlier for earlier, later in itertools.pairwise(times)}) == 1
    assert times[0] == 0
    assert times[-1] > 9_900


def test_short_runs_keep_every_point() -> None:
    timeline = Timeline()
    for step in range(20):
        timeline.add(TimelinePoint(float(step), 1, 0, 0.5, step))
    assert [point.output_tokens for point in timeline.points()] == list(range(20))


def test_seeds_differ_by_engine_seed_and_index_and_fit_63_bits() -> None:
    seeds = [derive_seed(engine, index) for engine in (0, 1, 2, -1) for index in range(1000)]
    assert len(set(seeds)) == 4000
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    low = sum(seed & 1 for seed in seeds)
    assert 1800 < low < 2200, "the lowest bit is as random as the others"
