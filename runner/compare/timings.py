"""Each metric of two sets of repeats: the difference, its interval, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from runner.measure.definitions import METRICS, STATISTICS, Group, find
from runner.measure.differences import Difference, holm, paired, welch
from runner.measure.repeats import FEWEST_REPEATS, Spread, spread, too_few

Verdict = Literal["same", "better", "worse", "different", "not enough data"]
Flat = Mapping[str, float | int | None]

ERROR_RATE = 0.05
"""Of comparisons of equal sets, the share that may find a difference anywhere in the table."""

NEGLIGIBLE = 0.01
"""Share of A's mean: a difference whose whole interval lies within it counts as none, however certain it is. Order and
temperature of a machine alone make such differences."""

GROUPS: tuple[Group, ...] = ("throughput", "latency", "energy")
HEADLINES = ("output_tokens_per_s", "total_tokens_per_s")


@dataclass(frozen=True)
class Line:
    """One metric of the comparison.

    Args:
        name: flat name, ``ttft_ms/p99``.
        a, b: over the repeats of each set; over rows for quality metrics.
        difference: B less A in the metric's unit, with its own 95% interval; ``None`` with too few repeats.
        corrected: the difference's p-value, corrected for the number of lines; ``None`` where there is none.
        verdict: of B against A.
        why: the reason for ``not enough data``.
    """

    name: str
    a: Spread
    b: Spread
    difference: Difference | None
    corrected: float | None
    verdict: Verdict
    why: str = ""

    def share(self, value: float) -> float | None:
        """A difference as a share of A's mean; ``None`` if that is 0."""
        return value / abs(self.a.mean) if self.a.mean else None


def timing_lines(
    a: Sequence[Mapping[str, object]], b: Sequence[Mapping[str, object]], as_pairs: bool, headline: str
) -> list[Line]:
    """One undecided line per metric that any run has, the headline first; ``decide`` gives the verdicts.

    Args:
        a, b: the contents of the runs' metrics.json.
        as_pairs: whether run i of A belongs to run i of B.
        headline: the metric that was declared before.
    """
    first, second = ([_flat(run) for run in runs] for runs in (a, b))
    notes = {name: note for run in (*a, *b) for name, note in _notes(run).items()}
    present = {name for run in (*first, *second) for name, value in run.items() if value is not None}
    names = [name for name in comparable() if name in present or (name in notes and _base(name) in present)]
    names.sort(key=lambda name: name != headline)
    return [_line(name, first, second, as_pairs, notes.get(name, "")) for name in names]


def comparable() -> list[str]:
    """The flat names that have a good direction and vary from repeat to repeat."""
    chosen = [metric for metric in METRICS if metric.group in GROUPS and metric.better != "neither"]
    flat = [[f"{m.name}/{s}" for s in STATISTICS] if m.distribution else [m.name] for m in chosen]
    return [name for names in flat for name in names]


def headline_of(metrics: Mapping[str, object]) -> str:
    """The metric that is looked at first: output throughput, or total throughput where nothing is generated."""
    return HEADLINES[0] if _flat(metrics).get("tokens/output") else HEADLINES[1]


def decide(lines: Sequence[Line], headline: str, margin: float) -> list[Line]:
    """Verdicts over the whole table at once.

    ``better`` and ``worse`` (``different`` where neither direction is good): the corrected p-value is at most 5%.
    ``same``: no such difference, and the interval lies within ``margin`` of A's mean; or it lies within ``NEGLIGIBLE``.
    Otherwise the interval is too wide to say.
    """
    corrected = holm({line.name: line.difference.p for line in lines if line.difference}, headline)
    return [_decided(line, corrected.get(line.name), margin) for line in lines]


def _decided(line: Line, corrected: float | None, margin: float) -> Line:
    difference = line.difference
    if difference is None or corrected is None:
        return line
    line = replace(line, corrected=corrected)
    if _within(line, difference, NEGLIGIBLE):
        return replace(line, verdict="same")
    if corrected <= ERROR_RATE:
        direction = find(line.name).better
        if direction == "neither":
            return replace(line, verdict="different")
        return replace(line, verdict="better" if (difference.value > 0) == (direction == "higher") else "worse")
    if _within(line, difference, margin):
        return replace(line, verdict="same")
    why = f"the interval goes beyond ±{margin:.0%}"
    if difference.p <= ERROR_RATE:
        why = "the interval excludes 0, but among so many lines one may do so by chance"
    return replace(line, verdict="not enough data", why=why)


def _within(line: Line, difference: Difference, margin: float) -> bool:
    widest = max(abs(difference.low), abs(difference.high))
    return widest <= margin * abs(line.a.mean or 0.0)


def _line(name: str, a: Sequence[Flat], b: Sequence[Flat], as_pairs: bool, note: str) -> Line:
    first, second = [run.get(name) for run in a], [run.get(name) for run in b]
    spreads = (spread(first, note), spread(second, note))
    if as_pairs:
        pairs = [(x, y) for x, y in zip(first, second, strict=True) if x is not None and y is not None]
        kept = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    else:
        kept = [float(x) for x in first if x is not None], [float(y) for y in second if y is not None]
    fewest = min(map(len, kept))
    if fewest < FEWEST_REPEATS:
        why = next((s.note for s in spreads if s.count < FEWEST_REPEATS), too_few(fewest))
        return Line(name, *spreads, None, None, "not enough data", why)
    test: Callable[[Sequence[float], Sequence[float]], Difference] = paired if as_pairs else welch
    return Line(name, *spreads, test(*kept), None, "not enough data")


def _flat(metrics: Mapping[str, object]) -> Flat:
    values = metrics.get("metrics")
    return values if isinstance(values, dict) else {}


def _notes(metrics: Mapping[str, object]) -> dict[str, str]:
    values = metrics.get("notes")
    return values if isinstance(values, dict) else {}


def _base(name: str) -> str:
    """A distribution's mean, which is there whenever it has any samples."""
    return f"{name.rpartition('/')[0]}/mean"
