"""Equal sets are found equal 19 times of 20 over the whole table, and a planted 5% slowdown is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runner.compare.comparison import MARGIN, compare, overall
from runner.compare.run_set import open_sets
from runner.compare.timings import Line, decide, timing_lines
from tests.runner.compare.folders import figures, write_run

HEADLINE = "output_tokens_per_s"
TRIALS = 600
MOST_WRONG = 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIALS)  # three standard errors above 1 in 20


def compared(
    rng: np.random.Generator, repeats: int, noise: float, slower: float, pairs: bool, drift: bool
) -> list[Line]:
    """Two sets of repeats, interleaved, of which B is ``slower``."""
    moments = np.exp(np.cumsum(rng.normal(0, 0.03, repeats))) if drift else np.ones(repeats)
    a = [{"metrics": figures(rng, noise, 1.0, float(moment))} for moment in moments]
    b = [{"metrics": figures(rng, noise, slower, float(moment))} for moment in moments]
    return decide(timing_lines(a, b, pairs, HEADLINE), HEADLINE, MARGIN)


def differs(lines: list[Line]) -> bool:
    return any(line.verdict in ("better", "worse") for line in lines)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("repeats", "noise"), [(3, 0.02), (5, 0.01), (10, 0.03)])
def test_equal_sets_differ_in_at_most_one_table_of_twenty(repeats: int, noise: float, pairs: bool) -> None:
    rng = np.random.default_rng([repeats, pairs])
    wrong = sum(differs(compared(rng, repeats, noise, 1.0, pairs, drift=False)) for _ in range(TRIALS))
    assert wrong / TRIALS <= MOST_WRONG


def test_without_correction_the_same_tables_would_differ_too_often() -> None:
    """What the correction is for: the largest of 23 lines' p-values alone is under 5% in far more tables."""
    rng = np.random.default_rng(0)
    tables = [compared(rng, 5, 0.01, 1.0, False, drift=False) for _ in range(200)]
    uncorrected = sum(min(line.difference.p for line in lines if line.difference) <= 0.05 for lines in tables)
    assert uncorrected / len(tables) > 2 * MOST_WRONG


@pytest.mark.parametrize("noise", [0.01, 0.02])
def test_a_planted_slowdown_of_5_per_cent_is_found_with_10_repeats(noise: float) -> None:
    rng = np.random.default_rng(7)
    tables = [compared(rng, 10, noise, 1.05, False, drift=False) for _ in range(200)]
    worse = sum(next(line for line in lines if line.name == HEADLINE).verdict == "worse" for lines in tables)
    assert worse / len(tables) > 0.95
    assert not any(line.verdict == "better" for lines in tables for line in lines)


def test_pairs_find_a_slowdown_under_a_drift_that_hides_it_from_two_sets() -> None:
    rng = np.random.default_rng(11)
    found = {pairs: [compared(rng, 10, 0.01, 1.05, pairs, drift=True) for _ in range(100)] for pairs in (True, False)}
    share = {
        pairs: np.mean([any(line.verdict == "worse" for line in lines) for lines in tables])
        for pairs, tables in found.items()
    }
    assert share[True] > 0.95
    assert share[False] < 0.7


def test_a_headline_keeps_its_power_in_a_long_table() -> None:
    """Among the others the same difference would have to beat 22 more."""
    rng = np.random.default_rng(3)
    a = [{"metrics": figures(rng, 0.02)} for _ in range(5)]
    b = [{"metrics": figures(rng, 0.02) | {HEADLINE: 4750.0 * float(rng.lognormal(0, 0.02))}} for _ in range(5)]
    as_headline = {line.name: line for line in decide(timing_lines(a, b, False, HEADLINE), HEADLINE, MARGIN)}
    as_other = {line.name: line for line in decide(timing_lines(a, b, False, "ttft_ms/p50"), "ttft_ms/p50", MARGIN)}
    assert as_headline[HEADLINE].corrected is not None
    assert as_other[HEADLINE].corrected is not None
    assert as_headline[HEADLINE].corrected < as_other[HEADLINE].corrected / 5


def test_run_folders_of_equal_repeats_and_of_slower_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for trial in range(40):
        sweep = tmp_path / f"equal{trial}"
        for number in range(5):
            for side, start in (("a", 2 * number + 1), ("b", 2 * number + 2)):
                write_run(sweep / side / str(number), figures(rng, 0.02), started_at=float(start))
        found = compare(*open_sets([str(sweep / "a"), str(sweep / "b")]))
        assert found.as_pairs
        wrong += overall(found.timings) != "no difference"
    assert wrong <= 6  # the 99.9% quantile of 40 tries at 5%
    for side, slower in (("a", 1.0), ("b", 1.05)):
        for number in range(10):
            start = 2.0 * number + 1 + (side == "b")
            write_run(tmp_path / "slow" / side / str(number), figures(rng, 0.02, slower), started_at=start)
    found = compare(*open_sets([str(tmp_path / "slow/a"), str(tmp_path / "slow/b")]))
    assert overall(found.timings) == "worse"
    assert next(line for line in found.lines if line.name == HEADLINE).verdict == "worse"
