"""Every metric's name, unit and definition, once: metrics.json, reports and docs/metrics.md all quote this table."""

from __future__ import annotations

from runner.measure.device_definitions import DEVICE
from runner.measure.load_definitions import LOAD
from runner.measure.metric import Group, Metric
from runner.measure.quality_definitions import QUALITY
from runner.measure.run_definitions import RUN
from runner.measure.speed_definitions import SPEED

__all__ = ["METRICS", "QUALITY", "Group", "Metric", "find", "names", "table_markdown"]

INTERVAL = ("low", "high")  # parts of a quality metric
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
"""Statistics of a per-request time, in the order in which tables show them."""

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}

MINIMUM_SAMPLES = {"mean": 1, "p50": 1, "p90": 10, "p95": 20, "p99": 100}
"""Fewest samples for each statistic: below 1/(1-q) a percentile is only the largest value renamed."""


METRICS: tuple[Metric, ...] = (*SPEED, *LOAD, *DEVICE, *RUN)

_BY_NAME = {metric.name: metric for metric in (*METRICS, *QUALITY)}


def find(name: str) -> Metric:
    """The definition behind a flat name such as ``ttft_ms/p99``, ``startup_s/load``, ``rouge1/low`` or ``NAME/rouge1``.

    Raises:
        KeyError: no metric of that name is defined.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    base, _, part = name.rpartition("/")
    judged = _quality(name)
    if judged is not None:
        return judged
    metric = _BY_NAME.get(base)
    if metric is None or not (base == "startup_s" or (metric.distribution and part in STATISTICS)):
        raise KeyError(f"no metric is called {name!r}")
    return metric


def _quality(name: str) -> Metric | None:
    """The quality metric in ``[NAME/]rouge1[/low]``, if it is one."""
    parts = name.split("/")
    if parts[-1] in INTERVAL:
        parts.pop()
    known = {metric.name: metric for metric in QUALITY}
    return known.get(parts[-1]) if 0 < len(parts) <= 2 else None


def names() -> list[str]:
    """Every flat name that metrics.json always holds, in the table's order; quality metrics are there by request, and
    those of the group ``load`` for loads."""
    flat: list[str] = []
    for metric in (metric for metric in METRICS if metric.group != "load"):
        flat += [f"{metric.name}/{s}" for s in STATISTICS] if metric.distribution else [metric.name]
    return flat


def table_markdown() -> str:
    """The definitions as Markdown, one table per group; docs/metrics.md carries this text."""
    titles: dict[Group, str] = {
        "throughput": "Throughput",
        "latency": "Latency",
        "load": "Load",
        "roofline": "Distance to the roofline",
        "energy": "Energy",
        "rows": "Rows and tokens",
        "engine": "Engine and memory",
        "phases": "Phases",
        "quality": "Quality",
    }
    lines: list[str] = []
    for group, title in titles.items():
        lines += [f"### {title}", "", "| Name | Unit | Definition |", "|---|---|---|"]
        for metric in (*METRICS, *QUALITY):
            if metric.group == group:
                suffix = "/*" if metric.distribution else ""
                lines.append(f"| `{metric.name}{suffix}` | {metric.unit} | {metric.definition} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
