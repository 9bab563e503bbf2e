"""What a search looks for: the best value of a metric among the variants that keep to its bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runner.errors import ConfigError, nearest
from runner.measure.definitions import METRICS, STATISTICS
from runner.quality.requirements import parse_requirement
from runner.report.format import number
from runner.sweep.results import VariantResult, metric_of

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Bound:
    """``metric SIGN limit``; the sign is one of <, <=, > and >=."""

    metric: str
    sign: str
    limit: float

    @property
    def text(self) -> str:
        """``ttft_ms/p99 < 2000``."""
        return f"{self.metric} {self.sign} {self.limit:g}"

    def excess(self, variant: VariantResult) -> float:
        """By how much the bound is broken, at most 0 where it is kept; infinite where the metric is not known."""
        value = variant.mean(self.metric)
        if value is None:
            return math.inf
        excess = value - self.limit if self.sign.startswith("<") else self.limit - value
        return math.ulp(0.0) if excess == 0 and len(self.sign) == 1 else excess


@dataclass(frozen=True)
class Goal:
    """What a search is for; ``text`` as people read it."""

    metric: str
    direction: Direction
    bounds: tuple[Bound, ...]

    @property
    def text(self) -> str:
        """``maximize output_tokens_per_s with ttft_ms/p99 < 2000``."""
        limits = ", ".join(bound.text for bound in self.bounds)
        return f"{self.direction} {self.metric}" + (f" with {limits}" if limits else "")

    def feasible(self, variant: VariantResult) -> bool:
        """Whether it has a value, meets its requirements and keeps to all bounds."""
        kept = all(bound.excess(variant) <= 0 for bound in self.bounds)
        return kept and not variant.unmet and variant.mean(self.metric) is not None


def objective_of(search: Mapping[str, Any]) -> Goal:
    """The goal that the section ``sweep.search`` declares.

    Raises:
        ConfigError: an unknown metric, or a bound that cannot be read.
    """
    words = str(search["objective"]).split()
    if len(words) == 1:
        metric = _checked(words[0], "sweep.search.objective")
        better = getattr(metric_of(metric), "better", "neither")
        if better == "neither":
            raise ConfigError(f"sweep.search.objective={metric!r} has no good direction: write maximize or minimize")
        return Goal(metric, "maximize" if better == "higher" else "minimize", _bounds(search))
    if len(words) != 2 or words[0] not in ("maximize", "minimize"):
        raise ConfigError(
            f"sweep.search.objective={search['objective']!r} is not allowed: it must be maximize METRIC, "
            f"minimize METRIC or METRIC"
        )
    direction: Direction = "maximize" if words[0] == "maximize" else "minimize"
    return Goal(_checked(words[1], "sweep.search.objective"), direction, _bounds(search))


def best(goal: Goal, variants: Sequence[VariantResult]) -> VariantResult | None:
    """The best of the variants that keep to the bounds; ``None`` if none does."""
    sign = 1 if goal.direction == "maximize" else -1
    kept = [variant for variant in variants if goal.feasible(variant)]
    return max(kept, key=lambda variant: sign * (variant.mean(goal.metric) or 0.0), default=None)


def outcome(goal: Goal, variants: Sequence[VariantResult]) -> str:
    """What a search has found, as people read it."""
    found = best(goal, variants)
    if found is not None:
        value = found.mean(goal.metric)
        return f"variant {found.variant.number}, {found.variant.label}, with {number(value)}"
    measured = [variant for variant in variants if variant.mean(goal.metric) is not None]
    if measured:
        many = f"{len(measured)} point{'s' * (len(measured) > 1)}"
        return f"none: of {many} that gave {goal.metric} none keeps to the constraints and requirements"
    return f"none: no point gave {goal.metric}"


def _bounds(search: Mapping[str, Any]) -> tuple[Bound, ...]:
    found = []
    for text in search["constraints"]:
        try:
            read = parse_requirement(str(text))
        except ValueError:
            read = None
        if read is None or read.sign == "==":
            raise ConfigError(
                f"sweep.search.constraints: {text!r} is not allowed: it must be METRIC < NUMBER, or with <=, > or >="
            )
        found.append(Bound(_checked(read.name, "sweep.search.constraints"), read.sign, read.limit))
    return tuple(found)


def _checked(name: str, key: str) -> str:
    if (metric := metric_of(name)) is not None and metric.group == "quality":
        return name
    single = [metric.name for metric in METRICS if not metric.distribution]
    known = [*single, *(f"{metric.name}/{s}" for metric in METRICS if metric.distribution for s in STATISTICS)]
    if name not in known:
        raise ConfigError(f"{key} names {name!r}, which is no metric{nearest(name, known)} (docs/metrics.md has all)")
    return name
