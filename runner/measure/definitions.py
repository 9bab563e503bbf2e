"""Every metric's name, unit and definition, once: metrics.json, reports and docs/metrics.md all quote this table."""

from __future__ import annotations

from runner.measure.load_definitions import LOAD
from runner.measure.metric import Group, Metric
from runner.measure.quality_definitions import QUALITY

__all__ = ["METRICS", "QUALITY", "Group", "Metric", "find", "names", "table_markdown"]

INTERVAL = ("low", "high")  # parts of a quality metric
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
"""Statistics of a per-request time, in the order in which tables show them."""

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}

MINIMUM_SAMPLES = {"mean": 1, "p50": 1, "p90": 10, "p95": 20, "p99": 100}
"""Fewest samples for each statistic: below 1/(1-q) a percentile is only the largest value renamed."""


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
    *LOAD,
    Metric(
        "mbu",
        "Memory bandwidth use (MBU)",
        "share",
        "Bytes that the steps had to move at least, divided by what the machine reads in the seconds in which steps "
        "ran (bytes / (busy seconds x measured read bandwidth)).",
        "roofline",
        better="higher",
    ),
    Metric(
        "mfu",
        "Compute use (MFU)",
        "share",
        "Operations that the steps had to compute, divided by what the machine computes in the seconds in which steps "
        "ran (operations / (busy seconds x measured matrix product rate)).",
        "roofline",
        better="higher",
    ),
    Metric(
        "floor_s",
        "Roofline floor",
        "s",
        "The least time for the run's steps on this machine: for each step its operations over the matrix product rate "
        "or its bytes over the read bandwidth, whichever takes longer. Steps of about the same arithmetic intensity "
        "are added up first, which makes it at most 4 % smaller.",
        "roofline",
        better="lower",
    ),
    Metric(
        "floor_share",
        "Floor / measured",
        "share",
        "Roofline floor divided by the measured seconds: 100 % is as fast as this machine can be with these steps.",
        "roofline",
        better="higher",
    ),
    Metric(
        "arithmetic_intensity",
        "Arithmetic intensity",
        "FLOP/byte",
        "Operations divided by bytes, of all steps.",
        "roofline",
    ),
    Metric(
        "work/tflop",
        "Operations",
        "TFLOP",
        "Floating-point operations that the steps had to compute, two per multiply-add: the layers' products, "
        "attention over the keys that each query sees, and the output head for the rows that are sampled or scored. "
        "Tokens that were computed again count again.",
        "roofline",
    ),
    Metric(
        "work/gb",
        "Bytes",
        "GB",
        "Bytes that the steps had to move at least, in 10^9: weights once per step, an embedding row and a new key and "
        "value per token, and the earlier keys and values once per sequence and step (those that several sequences "
        "share once). Activations are not counted.",
        "roofline",
    ),
    Metric(
        "ceiling/read_gb_per_s",
        "Ceiling: read",
        "GB/s",
        "Most bytes per second that this machine read from its memory, measured once on large random buffers and kept.",
        "roofline",
    ),
    Metric(
        "ceiling/copy_gb_per_s",
        "Ceiling: copy",
        "GB/s",
        "The same while copying, read and written bytes together.",
        "roofline",
    ),
    Metric(
        "ceiling/matmul_tflop_per_s",
        "Ceiling: matrix product",
        "TFLOP/s",
        "Most operations per second in a product of large random matrices of the run's dtype, with the run's threads.",
        "roofline",
    ),
    Metric(
        "engine_busy_share",
        "Engine busy",
        "share",
        "Seconds in which a step was under way, by the host's clock, divided by the measured seconds.",
        "roofline",
        better="higher",
    ),
    Metric(
        "device_busy_share",
        "GPU busy",
        "share",
        "Seconds in which the GPU computed steps, by its own clock, divided by the measured seconds.",
        "roofline",
        better="higher",
    ),
    Metric(
        "energy_j",
        "Energy",
        "J",
        "Energy that the engine's GPU took in the measured phase, from its own counter, or where it has none from its "
        "power, sampled five times a second. Nothing else of the machine is in it.",
        "energy",
        better="lower",
    ),
    Metric(
        "energy_j_per_output_token",
        "Energy per output token",
        "J/token",
        "Energy divided by the output tokens of the rows without error.",
        "energy",
        better="lower",
    ),
    Metric("power_w/mean", "Mean power", "W", "Energy divided by the seconds over which it was read.", "energy"),
    Metric("power_w/peak", "Peak power", "W", "Largest sample of the GPU's power in the measured phase.", "energy"),
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
        "drafts/accepted",
        "Drafted tokens accepted",
        "share",
        "Drafted tokens that the model itself drew in their places, divided by all drafted tokens, in the last "
        "session.",
        "engine",
        better="higher",
    ),
    Metric(
        "drafts/length",
        "Tokens per drafted step",
        "tokens",
        "Tokens that a sequence gained from a step with drafts of it, the one drawn behind them included, on average "
        "in the last session.",
        "engine",
        better="higher",
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
        "device_memory_mib/allocated",
        "Peak GPU memory of tensors",
        "MiB",
        "Most memory that tensors held on the GPU at once, loading included, in the last session.",
        "engine",
        better="lower",
    ),
    Metric(
        "device_memory_mib/reserved",
        "Peak GPU memory reserved",
        "MiB",
        "Most memory that torch's allocator held on the GPU for them, in the last session.",
        "engine",
        better="lower",
    ),
    Metric(
        "measured_s",
        "Measured phase",
        "s",
        "Wall-clock seconds from engine ready to the last row's end, summed over sessions; no start-up in it. Of a "
        "load: from the first measured request's arrival to the last one's end.",
        "phases",
    ),
    Metric(
        "startup_s",
        "Start-up",
        "s",
        "Seconds before the measured phase, summed over sessions. `startup_s/PHASE` gives the engine's phases in the "
        "last session; `warmup` is a first step of each kind on the CPU, whose kernels are compiled once per machine.",
        "phases",
        better="lower",
    ),
    Metric("sessions", "Sessions", "sessions", "Processes that worked on this run: 1, plus 1 per resume.", "phases"),
)

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
