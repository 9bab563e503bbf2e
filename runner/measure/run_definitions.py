"""What a run did beside its speed: rows and tokens, the engine and its memory, phases."""

from __future__ import annotations

from runner.measure.metric import Metric

RUN: tuple[Metric, ...] = (
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
