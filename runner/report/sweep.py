"""report.md and report.html of a sweep, from its folder and the run folders of its jobs alone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.measure.definitions import Metric
from runner.measure.differences import ROUNDING
from runner.measure.repeats import FEWEST_REPEATS, Spread
from runner.report.build import HALF, NARROW, report_environment
from runner.report.run_files import ReportError
from runner.report.tradeoff import Point, pareto_front, tradeoff
from runner.sweep.folder import MANIFEST, Sweep, read_sweep
from runner.sweep.plan import Variant
from runner.sweep.results import JobResult, VariantResult, job_results, metric_of, setting_keys, variant_results

SUMMARY = (
    "output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "ttft_ms/p50", "ttft_ms/p90", "ttft_ms/p99",
    "tpot_ms/p50", "tpot_ms/p90", "tpot_ms/p99", "e2e_ms/p50", "e2e_ms/p90", "e2e_ms/p99", "energy_j_per_output_token",
    "peak_memory_mib", "startup_s",
)  # fmt: skip
"""What is summarised over repeats; a metric that no run has is left out."""

GAINS = ("output_tokens_per_s", "total_tokens_per_s")
COSTS = (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("e2e_ms", "E2E"))
PERCENTILES = ("p99", "p95", "p90", "p50")
MOST_COLUMNS = 6  # of one table
MOST_KEYS = 4  # settings with a column of their own: a sheet of paper holds no more
MOST_CHARTS = 2  # a pooling model has neither of the first two kinds of latency, and gets the third


def build_sweep_report(path: Path) -> list[Path]:
    """Write both reports into the sweep's folder and give their paths.

    Raises:
        ReportError: the folder holds no sweep, or its manifest is damaged.
    """
    try:
        sweep = read_sweep(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path / MANIFEST} is damaged: {type(error).__name__}: {error}") from error
    context = _context(sweep)
    written = []
    for name in ("report.md", "report.html"):
        file = sweep.path / name
        file.write_text(report_environment().get_template(f"sweep_{name}.j2").render(context), encoding="utf-8")
        written.append(file)
    return written


def _context(sweep: Sweep) -> dict[str, Any]:
    results = job_results(sweep)
    variants = variant_results(results)
    columns = [(name, _title(name), metric_of(name)) for name in summarised(variants)]
    short = short_keys(setting_keys(results))
    counts = [(state, sum(r.state.standing == state for r in results)) for state in ("finished", "failed", "killed")]
    return {
        "sweep": sweep,
        "title": sweep.name,
        "complete": bool(results) and all(result.state.standing == "finished" for result in results),
        "counts": [(state, count) for state, count in counts if count],
        "headings": list(short.values()) if len(short) <= MOST_KEYS else ["variant"],
        "parts": _parts(columns),
        "columns": columns,
        "variants": [_variant(variant, columns, short) for variant in variants],
        "jobs": [_job(sweep, result, short) for result in results],
        "failed": [result for result in results if result.state.standing == "failed"],
        "left": [result for result in results if result.state.standing not in ("finished", "failed")],
        "charts": list(_charts(variants)),
        "notes": list(_notes(sweep, results, variants)),
        "search": _search(sweep, variants),
        "again": shlex.join(sweep.command),
        "compare": shlex.join(["runner", "compare", f"{sweep.path}@KEY=VALUE", f"{sweep.path}@KEY=VALUE"]),
        "rebuild": shlex.join(["runner", "report", str(sweep.path)]),
    }


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last part, where that tells it from the others."""
    ends = [key.lstrip("+").rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key.lstrip("+") for key, end in zip(keys, ends, strict=True)}


def _settings(variant: Variant, short: Mapping[str, str]) -> list[str]:
    """What sets a variant apart, a text for each heading: of more keys than have room side by side, one for all."""
    texts = {key: variant.settings.get(key, "").replace("\n", "\\n") for key in short}
    if len(short) <= MOST_KEYS:
        return list(texts.values())
    return [", ".join(f"{short[key]}={text}" for key, text in texts.items() if text)]


def summarised(variants: Sequence[VariantResult]) -> list[str]:
    """What has a value: how good the outputs are, as far as the recipe asked, and how fast they came."""
    seen = dict.fromkeys(name for variant in variants for repeat in variant.repeats for name in repeat.flat)
    quality = [name for name in seen if (metric := metric_of(name)) is not None and metric.group == "quality"]
    names = [*SUMMARY, *(name for name in quality if not name.endswith(("/low", "/high")))]
    return [name for name in names if any(variant.mean(name) is not None for variant in variants)]


def _title(name: str) -> str:
    metric = metric_of(name)
    if metric is None:
        return name
    return f"{metric.title} {name.rpartition('/')[2]}" if metric.distribution else metric.title


def _variant(
    variant: VariantResult, columns: Sequence[tuple[str, str, Metric | None]], short: Mapping[str, str]
) -> dict[str, Any]:
    cells = [(_rounded(variant.spread(name)), metric.unit if metric else "") for name, _, metric in columns]
    settings = _settings(variant.variant, short)
    return {"variant": variant.variant, "settings": settings, "runs": len(variant.repeats), "unmet": variant.unmet,
            "cells": cells}  # fmt: skip


def _rounded(found: Spread) -> Spread:
    """Without a deviation that is nothing but rounding."""
    if found.deviation is None or found.mean is None or found.deviation > ROUNDING * abs(found.mean):
        return found
    return replace(found, deviation=0.0)


def _parts(columns: Sequence[tuple[str, str, Metric | None]]) -> list[list[int]]:
    """The columns' places in tables that fit a sheet of paper: latencies, and before them everything else."""
    latencies = [place for place, (name, *_) in enumerate(columns) if "/p" in name]
    others = [place for place in range(len(columns)) if place not in latencies]
    return [part[at : at + MOST_COLUMNS] for part in (others, latencies) for at in range(0, len(part), MOST_COLUMNS)]


def _job(sweep: Sweep, result: JobResult, short: Mapping[str, str]) -> dict[str, Any]:
    state = result.state
    run = None if state.run_dir is None else os.path.relpath(state.run_dir, sweep.path)
    return {
        "planned": result.planned,
        "settings": _settings(result.planned.variant, short),
        "state": state,
        "run": run,
        "file": "report.html" if run is not None and (sweep.path / run / "report.html").is_file() else "run.log",
        "seconds": None if state.started_at is None or state.ended_at is None else state.ended_at - state.started_at,
        "rows": result.flat.get("rows/total"),
        "errors": result.flat.get("rows/error"),
        "throughput": next((result.flat[name] for name in GAINS if result.flat.get(name)), None),
    }


def _charts(variants: Sequence[VariantResult]) -> Iterator[dict[str, Any]]:
    """Throughput against each kind of latency, at the highest percentile that all variants have."""
    measured = [variant for variant in variants if variant.repeats]
    gain = next((name for name in GAINS if any(variant.mean(name) for variant in measured)), None)
    if gain is None:
        return
    shown = 0
    for base, title in COSTS:
        cost = next((f"{base}/{p}" for p in PERCENTILES if all(_has(v, f"{base}/{p}") for v in measured)), None)
        if cost is not None and shown < MOST_CHARTS:
            shown += 1
            yield from _chart(measured, cost, gain, title)


def _has(variant: VariantResult, name: str) -> bool:
    return variant.mean(name) is not None


def _chart(variants: Sequence[VariantResult], cost: str, gain: str, title: str) -> Iterator[dict[str, Any]]:
    points = [Point(v.variant.number, v.variant.label, v.mean(cost) or 0.0, v.mean(gain) or 0.0) for v in variants]
    titles = f"{_title(cost)}, ms", f"{_title(gain)}, tokens/s"
    wide = tradeoff(points, *titles, HALF)
    if wide is not None:
        front = ", ".join(str(point.number) for point in pareto_front(points))
        yield {
            "title": f"{_title(gain)} (tokens/s) over {title}",
            "note": "up and left is better",
            "legend": [("s2", f"Pareto front: {front}")],
            "half": True,
            "wide": wide,
            "narrow": tradeoff(points, *titles, NARROW),
        }


def _notes(sweep: Sweep, results: Sequence[JobResult], variants: Sequence[VariantResult]) -> Iterator[str]:
    if sweep.warmup:
        warmups = sum(result.planned.warmup for result in results)
        yield f"{warmups} warm-up runs are listed and count in no figure."
    fewest = min((len(variant.repeats) for variant in variants), default=0)
    if fewest < FEWEST_REPEATS:
        yield f"Fewer than {FEWEST_REPEATS} repeats: there is no interval, and differences may be chance."
    unmet = sum(variant.unmet for variant in variants)
    if unmet:
        yield f"Finished jobs that do not meet their requirements: {unmet}; the table of jobs says which."
    resumed = sum(result.state.starts > 1 for result in results)
    if resumed:
        yield f"{resumed} jobs were interrupted and resumed; their figures add up over their sessions."


def _search(sweep: Sweep, variants: Sequence[VariantResult]) -> dict[str, Any] | None:
    if sweep.search is None:
        return None
    from runner.sweep.objective import objective_of, outcome

    goal = objective_of(sweep.search)
    return {"goal": goal, "outcome": outcome(goal, variants)}
