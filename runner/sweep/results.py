"""What the jobs of a sweep measured, read from their run folders."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.job import JobState
from runner.measure.definitions import find
from runner.measure.metric import Metric
from runner.measure.repeats import Spread, spread
from runner.sink.atomic import replaced
from runner.sweep.folder import Sweep
from runner.sweep.plan import PlannedJob, Variant

TABLE = "table.csv"


@dataclass(frozen=True)
class JobResult:
    """A job, how it stands, and its metrics by their flat names: empty until its run has come to its end."""

    planned: PlannedJob
    state: JobState
    flat: dict[str, float | None]

    @property
    def counts(self) -> bool:
        """Whether it goes into statistics: finished, and no warm-up."""
        return self.state.standing == "finished" and not self.planned.warmup and bool(self.flat)


@dataclass(frozen=True)
class VariantResult:
    """A variant and those of its repeats that count."""

    variant: Variant
    repeats: tuple[JobResult, ...]

    @property
    def unmet(self) -> int:
        """How many of the repeats do not meet their requirements."""
        return sum(repeat.state.error is not None for repeat in self.repeats)

    def spread(self, name: str) -> Spread:
        """Mean, standard deviation and 95% interval of one metric over the repeats."""
        return spread([repeat.flat.get(name) for repeat in self.repeats])

    def mean(self, name: str) -> float | None:
        """Arithmetic mean over the repeats; ``None`` without any."""
        return self.spread(name).mean


def job_results(sweep: Sweep) -> list[JobResult]:
    """All jobs in their order."""
    return [JobResult(planned, state := sweep.state(planned), _flat(state)) for planned in sweep.jobs]


def variant_results(results: Sequence[JobResult]) -> list[VariantResult]:
    """All variants in their order, each with its counted repeats."""
    variants = {result.planned.variant.number: result.planned.variant for result in results}
    return [
        VariantResult(variant, tuple(r for r in results if r.planned.variant.number == number and r.counts))
        for number, variant in sorted(variants.items())
    ]


def metric_of(name: str) -> Metric | None:
    """The definition behind a flat name such as ``ttft_ms/p99``."""
    try:
        return find(name)
    except KeyError:
        return None


def setting_keys(results: Sequence[JobResult]) -> list[str]:
    """What sets the variants apart, in the order in which it was declared."""
    return list(dict.fromkeys(key for result in results for key in result.planned.variant.settings))


def write_table(sweep: Sweep, results: Sequence[JobResult]) -> Path:
    """``table.csv``: a line for each job with everything that its run measured.

    Raises:
        OSError: the disk is full.
    """
    metrics = list(dict.fromkeys(name for result in results for name in result.flat))
    keys = setting_keys(results)
    head = ["job", "variant", "repeat", "warmup", "state", *(key.lstrip("+") for key in keys), *metrics]
    path = sweep.path / TABLE
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*head, "identity", "run_dir", "error"])
        writer.writerows(_cells(sweep, result, keys, metrics) for result in results)
    return path


def _cells(sweep: Sweep, result: JobResult, keys: Sequence[str], metrics: Sequence[str]) -> Iterator[Any]:
    planned, state = result.planned, result.state
    yield from (planned.number, planned.variant.number, planned.repeat, str(planned.warmup).lower(), state.standing)
    yield from (planned.variant.settings.get(key, "") for key in keys)
    yield from (result.flat.get(name) for name in metrics)
    yield planned.identity
    yield None if state.run_dir is None else os.path.relpath(state.run_dir, sweep.path)
    yield state.error


def _flat(state: JobState) -> dict[str, float | None]:
    if not state.through or state.run_dir is None:
        return {}
    try:
        content = json.loads((state.run_dir / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # somebody took the run's folder away
        return {}
    flat: dict[str, float | None] = content["metrics"]
    return flat
