"""Whether a run's figures can be relied on, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runner.manifest import digest_file
from runner.measure.definitions import find
from runner.quality.requirements import unmet_requirements
from runner.report.format import number, share
from runner.report.run_files import RunFiles

FEWEST_ROWS = 10  # under this not even a 90th percentile means anything
MOST_SLOWED = 0.02  # share of looks at the GPU's clocks that may find it slowed down
MOST_TRUNCATED = 0.1  # share of rows; a recipe's max_truncated_rate replaces it


@dataclass(frozen=True)
class Verdict:
    """INVALID if there is any reason, FAILED if only what the recipe requires does not hold (``unmet``); ``notes`` are
    worth knowing and harm nothing."""

    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    unmet: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against the run."""
        return not self.reasons and not self.unmet

    @property
    def word(self) -> str:
        """VALID, INVALID or FAILED."""
        return "INVALID" if self.reasons else "FAILED" if self.unmet else "VALID"


def judge(run: RunFiles) -> Verdict:
    """Look at errors, truncations, sample sizes, sessions, counts and digests."""
    reasons = [*_error_reasons(run), *_truncation_reasons(run), *_few(run)]
    reasons += [*_load_reasons(run), *_gpu_reasons(run), *_wrong_counts(run), *_changed_files(run)]
    return Verdict(tuple(reasons), tuple(_notes(run)), tuple(unmet_requirements(run.metrics)))


def _rate(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _count(run: RunFiles, name: str) -> int:
    return int(run.flat.get(name) or 0)


def _rows(count: int) -> str:
    return f"{number(count)} row{'' if count == 1 else 's'}"


def _limit(run: RunFiles, key: str, default: float) -> float:
    """A limit that the recipe may set, at the top of its configuration."""
    value = run.config.get(key)
    return default if value is None else float(value)


def _error_reasons(run: RunFiles) -> Iterator[str]:
    errors, total = _count(run, "rows/error"), _count(run, "rows/total")
    allowed = _limit(run, "max_error_rate", 0.0)
    if _rate(errors, total) > allowed:
        yield f"Errors: {_rows(errors)} of {number(total)} ({share(errors / total)}), allowed are {share(allowed)}."


def _truncation_reasons(run: RunFiles) -> Iterator[str]:
    cut, ok = _count(run, "rows/truncated"), _count(run, "rows/ok")
    allowed = _limit(run, "max_truncated_rate", MOST_TRUNCATED)
    if _rate(cut, ok) > allowed and not _wants_full_length(run):
        yield (
            f"Truncations: {_rows(cut)} of {number(ok)} ({share(cut / ok)}) were cut at the token limit, allowed are "
            f"{share(allowed)}. A larger sampling.max_tokens lets them end by themselves."
        )


def _wants_full_length(run: RunFiles) -> bool:
    """Whether every row is meant to run to its token limit, as in throughput recipes."""
    return bool((run.config.get("sampling") or {}).get("ignore_eos"))


def _few(run: RunFiles) -> Iterator[str]:
    ok = _count(run, "rows/ok")
    if ok < FEWEST_ROWS:
        yield f"Too few samples: {_rows(ok)} without error, at least {FEWEST_ROWS} make a measurement. Outputs stand."


def _load_reasons(run: RunFiles) -> Iterator[str]:
    """Why the timings of a load are not those of the load that was declared."""
    load, sessions = run.metrics.get("load"), run.metrics.get("sessions") or []
    if load is None:
        return
    if len(sessions) > 1:
        yield (
            f"Interrupted: {len(sessions)} sessions worked on this load, and each began with an idle engine. The "
            f"timings are of no single load of this kind; the outputs stand."
        )
    limit = (run.config.get("load") or {}).get("max_lag_ms")
    names = ("lag_ms/p99", "lag_ms/p95", "lag_ms/p90", "load/lag_max_ms")  # the first that there are samples enough for
    name = next((name for name in names if run.flat.get(name) is not None), names[-1])
    lag = run.flat.get(name)
    if limit is not None and lag is not None and lag > limit:
        which = "at most" if name == names[-1] else name.rpartition("/")[2]
        yield (
            f"Generator too slow: requests were sent {number(lag)} ms late ({which}), allowed are {number(limit)} ms "
            f"(load.max_lag_ms). The times say as much of the runner as of the engine."
        )
    if load["requests"] < FEWEST_ROWS:
        yield f"Too few samples: {number(load['requests'])} requests were measured, at least {FEWEST_ROWS} are needed."
    if load.get("complete") is False:
        yield "Search not finished: the dataset ended before saturation was found. More rows finish it."


def _gpu_reasons(run: RunFiles) -> Iterator[str]:
    """Why the timings are not those of a GPU that is cool and alone."""
    gpu = run.metrics.get("gpu") or {}
    if gpu.get("slowed", 0) > MOST_SLOWED:
        yield (
            f"Clocks throttled: the GPU was slowed down by heat or by its board in {share(gpu['slowed'])} of "
            f"{number(gpu['looks'])} looks, allowed are {share(MOST_SLOWED)}."
        )
    if gpu.get("others"):
        count = gpu["others"]
        yield f"Other processes: {number(count)} other process{'es' * (count > 1)} used the GPU at the same time."


def _gpu_notes(run: RunFiles) -> Iterator[str]:
    gpu = run.metrics.get("gpu") or {}
    if gpu.get("capped"):
        yield f"The power limit held the GPU's clocks down in {share(gpu['capped'])} of {number(gpu['looks'])} looks."


def _load_notes(run: RunFiles) -> Iterator[str]:
    load = run.metrics.get("load") or {}
    trials = load.get("trials") or []
    if trials and not trials[0]["holds"]:
        yield f"Saturation lies below load.rate_min={number(trials[0]['rate_per_s'])}. Figures are of that rate."
    elif load.get("complete") and not load["bracketed"]:
        yield f"Saturation lies above load.rate_max={number(trials[-1]['rate_per_s'])}, where the limits still held."
    elif trials:
        yield f"Throughput and latencies are of the highest rate that held ({load['phase']}), rows and tokens of all."
    if load.get("dataset_ended_s") is not None:
        wanted = (run.config.get("load") or {}).get("duration_s")
        yield f"The dataset ended after {number(load['dataset_ended_s'])} s of load.duration_s={number(wanted)}."


def _wrong_counts(run: RunFiles) -> Iterator[str]:
    total, ok, bad = (_count(run, f"rows/{kind}") for kind in ("total", "ok", "error"))
    dataset = (run.manifest.get("dataset") or {}).get("rows")
    checks = (
        ("requests.parquet", run.requests_count, total, "rows were measured"),
        ("the dataset", dataset, total, "rows were measured"),
        ("the outputs file", run.outputs_count, ok, "rows finished without error"),
        ("errors.jsonl", run.errors_count, bad, "rows ended in error"),
    )
    for where, found, expected, what in checks:
        if isinstance(found, int) and found != expected:
            yield f"Wrong counts: {where} has {_rows(found)}, but {number(expected)} {what}."


def _changed_files(run: RunFiles) -> Iterator[str]:
    for name, digest in (run.manifest.get("outputs") or {}).items():
        path = run.run_dir / name
        if not path.is_file():
            yield f"Missing file: {name} is in the manifest but not in the run folder."
        elif str(digest).startswith("sha256:") and digest_file(path) != digest:
            yield f"Changed file: {name} is not what the run wrote, its digest differs from the manifest's."


def _notes(run: RunFiles) -> Iterator[str]:
    errors, cut = _count(run, "rows/error"), _count(run, "rows/truncated")
    if errors and not list(_error_reasons(run)):
        yield f"{_rows(errors)} ended in error, within the allowed {share(_limit(run, 'max_error_rate', 0.0))}."
    if cut and not _wants_full_length(run) and not list(_truncation_reasons(run)):
        yield f"{_rows(cut)} cut at the token limit."
    sessions = run.metrics.get("sessions") or []
    if len(sessions) > 1:
        yield (
            f"Resumed: {len(sessions)} sessions worked on this run. Rates are over their measured seconds together; "
            f"work that a killed session lost counts as time but not as output. Timeline, KV use and memory are those "
            f"of the last session."
        )
    yield from _load_notes(run)
    yield from _gpu_notes(run)
    yield from _silent_sessions(run, sessions)
    if sessions and sessions[-1]["status"] != "FINISHED":
        yield f"The last session ended as {sessions[-1]['status']} after its last row; the run was completed later."
    yield from _unjudged(run)
    yield from _missing_figures(run)
    if (run.manifest.get("git") or {}).get("dirty"):
        yield "The working tree had changes that are not in the commit; the manifest has their digest."


def _silent_sessions(run: RunFiles, sessions: list[dict[str, Any]]) -> Iterator[str]:
    """Sessions that have no part in the roofline figures."""
    noted = (run.metrics.get("roofline") or {}).get("sessions")
    silent = [str(s["number"]) for s in sessions if s["number"] not in (noted or []) and s["measured_seconds"] > 0]
    if noted and silent:
        yield (
            f"Distance to the roofline: without session{'s' * (len(silent) > 1)} {', '.join(silent)}, killed before "
            f"what the engine did was noted."
        )


def _unjudged(run: RunFiles) -> Iterator[str]:
    """Rows that quality metrics left out."""
    for about in run.metrics.get("quality") or ():
        names = ", ".join(about["names"])
        if about["rows_without_reference"]:
            yield f"Quality: {_rows(about['rows_without_reference'])} without a reference are not in {names}."
        if about["rows_failed"]:
            failed = _rows(about["rows_failed"])
            yield f"Quality: {failed} could not be judged by {names}; the first: {about['first_failure']}."


def _missing_figures(run: RunFiles) -> Iterator[str]:
    """One note for each reason why figures are missing, not one for each figure."""
    samples = run.metrics.get("samples") or {}
    by_reason: dict[str, dict[str, None]] = {}  # the inner one is an ordered set of titles
    for name, reason in (run.metrics.get("notes") or {}).items():
        metric = find(name)
        if metric.distribution and samples.get(metric.name):
            ending = f": {name.rpartition('/')[2]} ({reason})"
        else:
            ending = " (no row has it)" if metric.distribution else f" ({reason})"
        by_reason.setdefault(ending, {})[metric.title] = None
    for ending, titles in by_reason.items():
        yield f"Not given: {', '.join(titles)}{ending}."
