"""A finished run's outputs judged by its recipe's metrics: scores.parquet and the totals.

Everything is computed from the records on disk, in the order of the dataset, so that a run that was interrupted and
resumed has the same figures as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.config.metrics import (
    Bleu,
    Chrf,
    ExactMatch,
    JsonValid,
    QualitySection,
    RegexMatch,
    Rouge,
    reference_of,
)
from runner.errors import ConfigError
from runner.quality.bootstrap import FEWEST_ROWS, BucketSums
from runner.quality.match import ExactScorer, JsonScorer, LengthScorer, RegexScorer
from runner.quality.overlap import BleuScorer, ChrfScorer, RougeScorer
from runner.quality.scorer import NotScorableError, Scored, Scorer
from runner.record_json import from_json
from runner.sink.atomic import replaced

SCORES = "scores.parquet"
GROUP_ROWS = 10_000
Figures = dict[str, float | int | None]


@dataclass
class _Judged:
    """One metric on its way over the rows."""

    section: QualitySection
    scorer: Scorer
    sums: BucketSums = field(default_factory=BucketSums)
    without_reference: int = 0
    failed: int = 0
    first_failure: str = ""

    def judge(self, record: Mapping[str, Any]) -> tuple[float | None, ...]:
        """A row's figures. A row that cannot be judged costs its own figures only, whatever a library does with it."""
        column = reference_of(self.section)
        outputs = record["output"] if isinstance(record["output"], list) else [record["output"]]
        try:
            reference = record.get(column) if column else None
            scored = _mean([self.scorer.score(output, reference) for output in outputs])
        except NotScorableError:
            self.without_reference += 1
            return (None,) * len(self.section.names)
        except Exception as error:
            self.failed += 1
            self.first_failure = self.first_failure or f"{record['id']}: {type(error).__name__}: {error}"
            return (None,) * len(self.section.names)
        self.sums.add(scored.statistics)
        return scored.figures

    def totals(self) -> dict[str, Any]:
        """What metrics.json says of it, and the flat figures."""
        flat: Figures = {}
        notes: dict[str, str] = {}
        figures = self.sums.total(self.scorer.total)
        intervals = self.sums.intervals(self.scorer.total)
        for place, name in enumerate(self.section.names):
            low, high = intervals[place] if intervals else (None, None)
            flat |= {name: figures[place] if figures else None, f"{name}/low": low, f"{name}/high": high}
            if not figures:
                notes[name] = "no row could be judged"
            elif not intervals:
                notes[f"{name}/low"] = notes[f"{name}/high"] = (
                    f"an interval needs at least {FEWEST_ROWS} rows, there {'is' if self.sums.count == 1 else 'are'} "
                    f"{self.sums.count}"
                )
        about = {
            "kind": getattr(self.section, "kind", ""),
            "names": list(self.section.names),
            "reference": reference_of(self.section),
            "rows": self.sums.count,
            "rows_without_reference": self.without_reference,
            "rows_failed": self.failed,
            "first_failure": self.first_failure or None,
        }
        return {"flat": flat, "notes": notes, "about": about}


def judge_outputs(metrics: Sequence[QualitySection], records: Iterable[str], path: Path) -> dict[str, Any]:
    """Judge every record and write the rows' figures.

    Args:
        metrics: of the recipe.
        records: the rows without error as JSON, in the order of the dataset; read once.
        path: where scores.parquet goes: ``id`` and a column for each figure, null where a row could not be judged.

    Returns:
        ``metrics`` (flat names to figures, with ``/low`` and ``/high`` of their 95% intervals), ``notes`` (why one is
        null), and ``quality`` (what each metric is and how many rows it rests on). JSON types only.

    Raises:
        OSError: the file cannot be written.
    """
    judged = [_Judged(section, scorer) for section, scorer in zip(metrics, open_scorers(metrics), strict=True)]
    names = [name for section in metrics for name in section.names]
    schema = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in names)])
    with replaced(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        rows = _rows(judged, records)
        while group := list(islice(rows, GROUP_ROWS)):
            columns = zip(*group, strict=True)
            arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    found = [one.totals() for one in judged]
    return {
        "metrics": {name: value for one in found for name, value in one["flat"].items()},
        "notes": {name: note for one in found for name, note in one["notes"].items()},
        "quality": [one["about"] for one in found],
    }


def open_scorers(metrics: Sequence[QualitySection]) -> list[Scorer]:
    """A scorer for each metric.

    Raises:
        ConfigError: its package is not installed.
    """
    found = []
    for number, section in enumerate(metrics):
        try:
            found.append(_scorer(section))
        except ImportError as error:
            kind = getattr(section, "kind", "")
            raise ConfigError(
                f"metrics[{number}].kind={kind!r} needs a package that is not installed ({error}): "
                f"pip install rouge-score sacrebleu jsonschema"
            ) from None
    return found


def _rows(judged: Sequence[_Judged], records: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    for text in records:
        record = from_json(text)
        yield (record["id"], *(figure for one in judged for figure in one.judge(record)))


def _mean(scored: Sequence[Scored]) -> Scored:
    """Of several completions of a row the mean; for sums of counts that weighs each row once."""
    if len(scored) == 1:
        return scored[0]
    figures = zip(*(one.figures for one in scored), strict=True)
    statistics = zip(*(one.statistics for one in scored), strict=True)
    return Scored(tuple(sum(f) / len(scored) for f in figures), tuple(sum(s) / len(scored) for s in statistics))


def _scorer(section: QualitySection) -> Scorer:
    if isinstance(section, ExactMatch):
        return ExactScorer(section)
    if isinstance(section, RegexMatch):
        return RegexScorer(section)
    if isinstance(section, Rouge):
        return RougeScorer(section)
    if isinstance(section, Bleu):
        return BleuScorer(section)
    if isinstance(section, Chrf):
        return ChrfScorer(section)
    return JsonScorer(section) if isinstance(section, JsonValid) else LengthScorer()
