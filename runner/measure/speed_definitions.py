"""Throughput and latency of every run."""

from __future__ import annotations

from runner.measure.metric import Metric

SPEED: tuple[Metric, ...] = (
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
)
