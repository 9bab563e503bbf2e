"""Metrics in vLLM's shape: what they count is what was run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine import LLM, RequestMetrics, RequestOutput
from engine.metrics import Counter, Gauge, Histogram, RequestMeter
from engine.outputs import CompletionOutput
from engine.stats import EngineStats
from tests.engine.ask import greedy, outputs

Limited = Callable[..., LLM]


def test_counts_of_a_run(smol: LLM, limited: Limited, prompts: list[list[int]]) -> None:
    llm = limited(smol, max_seqs=2)
    llm._meter = RequestMeter()
    items: list[Any] = [{"prompt_token_ids": prompt} for prompt in prompts[10:14]]
    params = [greedy(max_tokens=n, ignore_eos=True) for n in (14, 2, 2, 2, 1)]
    stream = llm.stream([*items, ""], params)
    assert next(stream).error is None, "the longest one still runs"
    running = {m.name: m for m in llm.get_metrics() if isinstance(m, Gauge)}
    assert running["galley:num_requests_running"].value >= 1
    assert 0 < running["galley:kv_cache_usage_perc"].value <= 1
    list(stream)
    found = llm.get_metrics()
    gauges = {m.name: m.value for m in found if isinstance(m, Gauge)}
    assert gauges["galley:num_requests_running"] == gauges["galley:num_requests_waiting"] == 0
    assert gauges["galley:kv_cache_usage_perc"] == gauges["galley:engine_sleep_state"] == 0
    counters = {(m.name, m.labels.get("finished_reason")): m.value for m in found if isinstance(m, Counter)}
    lengths = [len(prompt) for prompt in prompts[10:14]]
    assert counters["galley:prompt_tokens", None] == sum(lengths)
    assert counters["galley:generation_tokens", None] == 20
    assert counters["galley:request_success", "length"] == 4
    assert counters["galley:request_success", "error"] == 1
    assert counters["galley:request_success", "stop"] == 0
    histograms = {m.name: m for m in found if isinstance(m, Histogram)}
    assert histograms["galley:request_prompt_tokens"].sum == sum(lengths)
    assert histograms["galley:request_generation_tokens"].buckets["5"] == 3
    first, whole = (
        histograms[f"galley:{name}"] for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds")
    )
    assert first.count == whole.count == whole.buckets["+Inf"] == 4
    assert 0 < first.sum < whole.sum
    assert {m.labels["model_name"] for m in found} == {"smollm2-135m-instruct"}
    assert len(outputs(llm, ["a"], greedy(max_tokens=1))) == 1


def test_buckets_and_times() -> None:
    meter = RequestMeter()
    times = RequestMetrics(arrival=1.0, scheduled=1.5, first_token=2.0, last_token=4.0)
    one = CompletionOutput(0, "", (1, 2, 3, 4, 5), finish_reason="stop")
    meter.observe(RequestOutput("0", None, (7, 7, 7), (one,), metrics=times))
    found = {m.name: m for m in meter.metrics(EngineStats(), {}, sleeping=True) if isinstance(m, Histogram)}
    expected = {
        "time_to_first_token_seconds": 1.0,
        "request_queue_time_seconds": 0.5,
        "request_prefill_time_seconds": 0.5,
        "request_decode_time_seconds": 2.0,
        "request_inference_time_seconds": 2.5,
        "e2e_request_latency_seconds": 3.0,
        "request_time_per_output_token_seconds": 0.5,
    }
    for name, seconds in expected.items():
        histogram = found[f"galley:{name}"]
        assert (histogram.count, histogram.sum) == (1, pytest.approx(seconds))
        reached = [float(bound) for bound, count in histogram.buckets.items() if count and bound != "+Inf"]
        assert min(reached) >= seconds
        assert all(float(bound) < seconds for bound, count in histogram.buckets.items() if not count)
