"""The search for saturation finds what a queue's own arithmetic says, and goes on where it was."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.load import PoissonLoad, SaturationLoad
from runner.journal import Entry
from runner.load.arrivals import arrivals
from runner.load.goodput import is_good
from runner.load.search import Search, Tally, tallies
from runner.measure.load import _good
from runner.null_async import NullAsyncLLM
from tests.runner.load.simulated import bad, rows, section, simulate

SERVICE, LIMIT, REQUESTS = 0.010, 60.0, 600
LOAD = section(
    kind="saturation", rate_min=10, rate_max=160, trial_requests=REQUESTS, goodput={"e2e_ms": LIMIT}, warmup=20
)
assert isinstance(LOAD, SaturationLoad)


def share_in_time(rate: float) -> float:
    """What Lindley's recursion gives for the trial's own arrivals: the share of requests done within the limit."""
    free, good = 0.0, 0
    for arrival in islice(arrivals(PoissonLoad(rate=rate, seed=LOAD.seed)), REQUESTS):  # type: ignore[attr-defined]
        free = max(free, arrival) + SERVICE
        good += (free - arrival) * 1e3 <= LIMIT + 1e-6
    return good / REQUESTS


def searched(load: SaturationLoad, count: int = 10_000) -> Search:
    engine = NullAsyncLLM(seconds_per_request=SERVICE, max_num_seqs=1)
    entries = simulate(load, rows(count), engine)
    search = Search(load)
    search.replay(tallies((entry.phase, is_good(entry, load.goodput.declared)) for entry in entries))
    assert len(entries) == load.warmup + len(search.trials) * load.trial_requests  # no row is begun in vain
    return search


def test_the_rate_that_is_found_holds_and_the_next_one_does_not() -> None:
    assert isinstance(LOAD, SaturationLoad)
    search = searched(LOAD)
    assert search.held is not None
    assert search.broke is not None
    assert search.next_rate() is None
    assert 1 < search.broke / search.held <= 1 + LOAD.resolution
    assert share_in_time(search.held) >= LOAD.attainment > share_in_time(search.broke)
    assert 50 < search.held < 100  # an M/D/1 queue of 100 requests/s has its 99th percentile there
    assert len(search.trials) <= LOAD.most_trials
    for rate, tally in search.trials:
        assert tally.good / tally.requests == pytest.approx(share_in_time(rate))


def test_ends_that_all_hold_or_that_none_holds() -> None:
    changed = {"rate_min": 5.0, "rate_max": 20.0}
    all_hold = searched(LOAD.model_copy(update=changed))  # type: ignore[arg-type]
    assert (all_hold.held, all_hold.broke, len(all_hold.trials)) == (20.0, None, 2)
    none_holds = searched(LOAD.model_copy(update={"rate_min": 150.0}))  # type: ignore[arg-type]
    assert (none_holds.held, none_holds.broke, len(none_holds.trials)) == (None, 150.0, 1)


def test_a_search_that_was_cut_anywhere_ends_with_the_same_rate() -> None:
    """The second session has the first one's records of whole trials, and half of the one that was cut."""
    assert isinstance(LOAD, SaturationLoad)
    whole = searched(LOAD)
    cut = LOAD.warmup + 2 * REQUESTS + REQUESTS // 2
    engines = [NullAsyncLLM(seconds_per_request=SERVICE, max_num_seqs=1) for _ in range(2)]
    first = simulate(LOAD, rows(cut), engines[0])
    earlier = tallies((entry.phase, is_good(entry, LOAD.goodput.declared)) for entry in first)
    second = simulate(LOAD, rows(10_000, first=cut), engines[1], earlier=earlier)
    assert [entry.idx for entry in first + second] == list(range(len(first) + len(second)))
    assert {entry.phase for entry in second if entry.idx < LOAD.warmup + 3 * REQUESTS} == {"trial-2"}
    search = Search(LOAD)
    search.replay(tallies((entry.phase, is_good(entry, LOAD.goodput.declared)) for entry in first + second))
    assert [rate for rate, _ in search.trials][:3] == [rate for rate, _ in whole.trials][:3]
    assert search.next_rate() is None


def test_rows_that_cannot_run_are_not_good() -> None:
    assert isinstance(LOAD, SaturationLoad)
    placed = rows(2000)
    placed[25:45] = [bad(place) for place in range(25, 45)]
    entries = simulate(LOAD, placed, NullAsyncLLM(seconds_per_request=SERVICE, max_num_seqs=1))
    found = tallies((entry.phase, is_good(entry, LOAD.goodput.declared)) for entry in entries)
    assert found[0] == Tally(REQUESTS, REQUESTS - 20)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 1000), st.floats(1.01, 500), st.floats(0.01, 1), st.floats(0.05, 2000))
def test_every_threshold_is_bracketed_within_the_most_trials(
    low: float, ratio: float, resolution: float, truth: float
) -> None:
    load = SaturationLoad(
        rate_min=low, rate_max=low * ratio, resolution=resolution, goodput={"tpot_ms": 50}, trial_requests=10
    )  # type: ignore[arg-type]
    search = Search(load)
    while (rate := search.next_rate()) is not None:
        assert load.rate_min <= rate <= load.rate_max
        search.tell(Tally(10, 10 if rate <= truth else 0))
    assert len(search.trials) <= load.most_trials
    assert (search.held or 0) <= truth < (search.broke or np.inf)
    if search.held and search.broke:
        assert search.broke / search.held <= 1 + resolution + 1e-9


times = st.one_of(st.none(), st.floats(0, 2))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(times, times, times, st.integers(0, 3), st.sampled_from([None, "bad"])), min_size=1, max_size=20
    ),
    st.dictionaries(st.sampled_from(["ttft_ms", "tpot_ms", "e2e_ms"]), st.floats(1, 2000)),
)
def test_requests_are_judged_alike_while_they_run_and_in_the_file(rows: list[Any], limits: dict[str, float]) -> None:
    entries = [
        Entry(n, str(n), 1, "", 1, 0, tokens, arrival, None, first, last, 0, "stop", error)
        for n, (arrival, first, last, tokens, error) in enumerate(rows)
    ]
    names = ("arrival_s", "first_token_s", "last_token_s", "output_tokens", "error")
    table = pa.table({name: pa.array([getattr(entry, name) for entry in entries]) for name in names})
    assert _good(table, limits).tolist() == [is_good(entry, limits) for entry in entries]
