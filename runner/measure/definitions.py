"""Every metric's name, unit and definition, once: metrics.json, reports and docs/metrics.md all quote this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["throughput", "latency", "rows", "engine", "phases"]

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
"""Statistics of a per-request time, in the order in which tables show them."""

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}

MINIMUM_SAMPLES = {"mean": 1, "p50": 1, "p90": 10, "p95": 20, "p99": 100}
"""Fewest samples for each statistic: below 1/(1-q) a percentile is only the largest value renamed."""


@dataclass(frozen=True)
class Metric:
    """One metric; a ``distribution`` appears once per statistic, as ``ttft_ms/p99``. ``better``: the good direction."""

    name: str
    title: str
    unit: str
    definition: str
    group: Group
    distribution: bool = False
    better: Literal["higher", "lower", "neither"] = "neither"


METRICS: tuple[Metric, ...] = (
    Metric(
        "output_tokens_per_s",
        "Output throughput",
        "tokens/s",
        "Output tokens of the rows without error, divided by the measured seconds.",
        "throughput",
        better="higher",
    ),
    Metric(
        "total_tokens_per_s",
        "Total throughput",
        "tokens/s",
        "Prompt and output tokens of the rows without error, divided by the measured seconds. Prompt tokens that came "
        "from the prefix cache count too.",
        "throughput",
        better="higher",
    ),
    Metric(
        "requests_per_s",
        "Request throughput",
        "requests/s",
        "Rows without error, divided by the measured seconds.",
        "throughput",
        better="higher",
    ),
    Metric(
        "ttft_ms",
        "TTFT",
        "ms",
        "Time to first token: arrival to first token, of each row without error that has a first token.",
        "latency",
        distribution=True,
        better="lower",
    ),
    Metric(
        "tpot_ms",
        "TPOT",
        "ms",
        "Time per output token: (last token - first token) / (output tokens - 1), of each row without error with two "
        "output tokens or more.",
        "latency",
        distribution=True,
        better="lower",
    ),
    Metric(
        "e2e_ms",
        "E2E",
        "ms",
        "End to end: arrival to last token (for pooling: to the result), of each row without error.",
        "latency",
        distribution=True,
        better="lower",
    ),
    Metric(
        "queue_ms",
        "Queue",
        "ms",
        "Queue time: arrival to the first step that computed any of the row's tokens, of each row without error.",
        "latency",
        distribution=True,
        better="lower",
    ),
    Metric("rows/total", "Rows", "rows", "Rows with a record: finished or in error.", "rows"),
    Metric("rows/ok", "Rows without error", "rows", "Rows that finished without error.", "rows", better="higher"),
    Metric("rows/error", "Rows in error", "rows", "Rows that ended as an error record.", "rows", better="lower"),
    Metric(
        "rows/truncated",
        "Rows truncated",
        "rows",
        "Rows without error whose output was cut by a token limit (finish reason `length`).",
        "rows",
        better="lower",
    ),
    Metric("tokens/prompt", "Prompt tokens", "tokens", "Prompt tokens of the rows without error.", "rows"),
    Metric("tokens/output", "Output tokens", "tokens", "Output tokens of the rows without error.", "rows"),
    Metric(
        "tokens/cached",
        "Cached prompt tokens",
        "tokens",
        "Prompt tokens of the rows without error that came from the prefix cache.",
        "rows",
    ),
    Metric(
        "prefix_hit_rate",
        "Prefix hit rate",
        "share",
        "Cached prompt tokens divided by prompt tokens, of the rows without error.",
        "engine",
        better="higher",
    ),
    Metric(
        "kv_use/peak",
        "KV cache use, peak",
        "share",
        "Most KV cache blocks in use at once, divided by all blocks, in the last session.",
        "engine",
    ),
    Metric(
        "running/peak",
        "Running requests, peak",
        "requests",
        "Most requests that shared one step, in the last session.",
        "engine",
    ),
    Metric(
        "preemptions",
        "Preemptions",
        "times",
        "Times a running request gave up its KV blocks and had to be computed again, over all rows.",
        "engine",
        better="lower",
    ),
    Metric(
        "peak_memory_mib",
        "Resident memory, peak",
        "MiB",
        "Largest resident set of the runner's process in the last session, as the operating system counts it.",
        "engine",
        better="lower",
    ),
    Metric(
        "measured_s",
        "Measured phase",
        "s",
        "Wall-clock seconds from engine ready to the last row's end, summed over sessions; no start-up in it.",
        "phases",
    ),
    Metric(
        "startup_s",
        "Start-up",
        "s",
        "Seconds before the measured phase, summed over sessions. `startup_s/PHASE` gives the engine's phases in the "
        "last session.",
        "phases",
        better="lower",
    ),
    Metric("sessions", "Sessions", "sessions", "Processes that worked on this run: 1, plus 1 per resume.", "phases"),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


def find(name: str) -> Metric:
    """The definition behind a flat name such as ``ttft_ms/p99`` or ``startup_s/load``.

    Raises:
        KeyError: no metric of that name is defined.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    base, _, part = name.rpartition("/")
    metric = _BY_NAME.get(base)
    if metric is None or not (base == "startup_s" or (metric.distribution and part in STATISTICS)):
        raise KeyError(f"no metric is called {name!r}")
    return metric


def names() -> list[str]:
    """Every flat name that metrics.json always holds, in the table's order."""
    flat: list[str] = []
    for metric in METRICS:
        flat += [f"{metric.name}/{s}" for s in STATISTICS] if metric.distribution else [metric.name]
    return flat


def table_markdown() -> str:
    """The definitions as Markdown, one table per group; docs/metrics.md carries this text."""
    titles: dict[Group, str] = {
        "throughput": "Throughput",
        "latency": "Latency",
        "rows": "Rows and tokens",
        "engine": "Engine and memory",
        "phases": "Phases",
    }
    lines: list[str] = []
    for group, title in titles.items():
        lines += [f"### {title}", "", "| Name | Unit | Definition |", "|---|---|---|"]
        for metric in METRICS:
            if metric.group == group:
                suffix = "/*" if metric.distribution else ""
                lines.append(f"| `{metric.name}{suffix}` | {metric.unit} | {metric.definition} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
