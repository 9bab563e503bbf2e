"""The engine's counters in the shape of vLLM's ``get_metrics``: named values with labels."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.outputs import EmbeddingRequestOutput, RequestMetrics, RequestOutput
from engine.stats import EngineStats

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
           80.0, 160.0, 640.0, 2560.0)  # fmt: skip
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
REASONS = ("stop", "length", "abort", "error")


@dataclass(frozen=True)
class Metric:
    """A named value; ``labels`` tell apart those of one name."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Counter(Metric):
    """A number that only grows."""

    value: int


@dataclass(frozen=True)
class Gauge(Metric):
    """A number that goes up and down."""

    value: float


@dataclass(frozen=True)
class Histogram(Metric):
    """Observations; ``buckets`` counts those up to each bound, and all of them under ``+Inf``."""

    count: int
    sum: float
    buckets: Mapping[str, int]


@dataclass
class _Observations:
    """What a histogram is made of, one count per bucket."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float | None) -> None:
        if value is not None:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.sum += value

    def histogram(self, name: str, labels: Mapping[str, str]) -> Histogram:
        total, buckets = 0, {}
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            buckets[bound] = total
        return Histogram(name, labels, total, self.sum, buckets)


class RequestMeter:
    """Follows finished requests: how they ended, how long they were, how long they took."""

    def __init__(self) -> None:
        self._ends: Counts[str] = Counts()
        self._tokens = {name: _Observations(TOKENS) for name in ("request_prompt_tokens", "request_generation_tokens")}
        self._seconds = {
            name: _Observations(SECONDS)
            for name in (
                "time_to_first_token_seconds",
                "request_time_per_output_token_seconds",
                "e2e_request_latency_seconds",
                "request_queue_time_seconds",
                "request_prefill_time_seconds",
                "request_decode_time_seconds",
                "request_inference_time_seconds",
            )
        }

    def observe(self, output: RequestOutput | EmbeddingRequestOutput) -> None:
        """Count a finished request."""
        if output.error is not None:
            self._ends["error"] += 1
            return
        completions = output.outputs if isinstance(output, RequestOutput) else ()
        lengths = [len(one.token_ids) for one in completions]
        self._ends.update([one.finish_reason or "stop" for one in completions] or ["stop"])
        self._tokens["request_prompt_tokens"].add(len(output.prompt_token_ids))
        for length in lengths:
            self._tokens["request_generation_tokens"].add(length)
        if output.metrics is not None:
            self._time(output.metrics, max(lengths, default=0))

    def metrics(self, stats: EngineStats, labels: Mapping[str, str], sleeping: bool) -> list[Metric]:
        """Everything, with the engine's own counters."""
        found: list[Metric] = [
            Gauge("galley:num_requests_running", labels, stats.running),
            Gauge("galley:num_requests_waiting", labels, stats.waiting),
            Gauge("galley:engine_sleep_state", labels, int(sleeping)),
            Gauge("galley:kv_cache_usage_perc", labels, stats.kv_blocks_used / max(1, stats.kv_blocks_total)),
            Counter("galley:prefix_cache_queries", labels, stats.prompt_tokens),
            Counter("galley:prefix_cache_hits", labels, stats.cached_tokens),
            Counter("galley:num_preemptions", labels, stats.preemptions),
            Counter("galley:prompt_tokens", labels, stats.prompt_tokens),
            Counter("galley:prompt_tokens_cached", labels, stats.cached_tokens),
            Counter("galley:generation_tokens", labels, stats.output_tokens),
        ]
        for reason in REASONS:
            found.append(Counter("galley:request_success", {**labels, "finished_reason": reason}, self._ends[reason]))
        for name, seen in (self._tokens | self._seconds).items():
            found.append(seen.histogram(f"galley:{name}", labels))
        return found

    def _time(self, times: RequestMetrics, tokens: int) -> None:
        """``tokens``: of the longest completion."""
        decode = _between(times.first_token, times.last_token)
        for name, value in (
            ("time_to_first_token_seconds", times.ttft),
            ("e2e_request_latency_seconds", times.e2e),
            ("request_queue_time_seconds", _between(times.arrival, times.scheduled)),
            ("request_prefill_time_seconds", _between(times.scheduled, times.first_token)),
            ("request_decode_time_seconds", decode),
            ("request_inference_time_seconds", _between(times.scheduled, times.last_token)),
            (
                "request_time_per_output_token_seconds",
                decode / (tokens - 1) if decode is not None and tokens > 1 else None,
            ),
        ):
            self._seconds[name].add(value)


def _between(start: float | None, stop: float | None) -> float | None:
    return None if start is None or stop is None else stop - start
