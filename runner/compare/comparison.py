"""Everything that is said about two sets of runs, and the word for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from runner.compare.outputs import OutputComparison, compare_outputs
from runner.compare.quality import quality_lines
from runner.compare.run_set import RunSet
from runner.compare.timings import Line, decide, headline_of, timing_lines
from runner.compare.work import WorkDifferences, interleaved, work_differences
from runner.measure.repeats import FEWEST_REPEATS

Overall = Literal["no difference", "better", "worse", "different", "mixed", "not enough data"]

MARGIN = 0.05
"""Share of A's mean within which an interval must lie for the verdict ``same``."""


@dataclass(frozen=True)
class Comparison:
    """Two sets of runs, side by side.

    Args:
        a, b: the sets.
        work: what they did and where.
        as_pairs: whether timings were compared in pairs, because the runs were interleaved.
        headline: the metric with half of the table's error rate.
        timings, quality: the lines, decided together.
        margin: what ``same`` means.
        outputs: A's first run against B's first one; ``None`` without outputs in common.
        unstable: for A and B, rows whose output differs between its first run and any other of its own, the largest
            number; ``None`` for a single run.
    """

    a: RunSet
    b: RunSet
    work: WorkDifferences
    as_pairs: bool
    headline: str
    timings: tuple[Line, ...]
    quality: tuple[Line, ...]
    margin: float
    outputs: OutputComparison | None
    unstable: tuple[int | None, int | None]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All of them."""
        return (*self.timings, *self.quality)


def overall(lines: Sequence[Line]) -> Overall:
    """One word over several lines. Of comparisons of equal sets at most 5% get another one than ``no difference``."""
    if not any(line.difference for line in lines):
        return "not enough data"
    found = {line.verdict for line in lines} & {"better", "worse", "different"}
    if len(found) > 1:
        return "mixed"
    return "no difference" if not found else cast(Overall, found.pop())


def compare(a: RunSet, b: RunSet, headline: str | None = None, margin: float = MARGIN) -> Comparison:
    """Compare two sets of repeats of one configuration each.

    Args:
        a, b: the sets; a verdict is about B.
        headline: a flat metric name; ``None`` takes throughput.
        margin: share of A's mean.

    Raises:
        ValueError: a file in a run folder is damaged.
    """
    as_pairs = interleaved(a, b)
    sides = [[run.metrics for run in one.runs] for one in (a, b)]
    headline = headline or headline_of(sides[0][0])
    timings = timing_lines(sides[0], sides[1], as_pairs and len(a.runs) >= FEWEST_REPEATS, headline)
    decided = decide([*timings, *quality_lines(a, b)], headline, margin)
    return Comparison(
        a=a,
        b=b,
        work=work_differences(a, b),
        as_pairs=as_pairs,
        headline=headline,
        timings=tuple(decided[: len(timings)]),
        quality=tuple(decided[len(timings) :]),
        margin=margin,
        outputs=compare_outputs(a.runs[0].run_dir, b.runs[0].run_dir),
        unstable=(_unstable(a), _unstable(b)),
    )


def _unstable(runs: RunSet) -> int | None:
    first, *others = (run.run_dir for run in runs.runs)
    found = [compare_outputs(first, other, most_shown=0) for other in others]
    return max(_flips(found), default=None)


def _flips(comparisons: Iterable[OutputComparison | None]) -> list[int]:
    return [one.flips + sum(one.alone) for one in comparisons if one is not None]
