"""Metrics against hand-made tables whose answers can be worked out on paper."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.stats import EngineStats, TimelinePoint
from runner.measure import definitions
from runner.measure.requests_file import RequestsFile
from runner.measure.summary import peak_memory_mib, summarise
from runner.run_info import Session
from tests.runner.launch import ROOT
from tests.runner.run_folder import SCHEMA, simulate


def row(index: int, **changes: Any) -> dict[str, Any]:
    base = {
        "index": index, "id": str(index), "session": 1, "prompt_tokens": 10, "cached_tokens": 0, "output_tokens": 5,
        "arrival_s": 1.0, "scheduled_s": 1.5, "first_token_s": 2.0, "last_token_s": 4.0,
        "preemptions": 0, "finish_reason": "stop", "error": None, "sent_s": None, "phase": None, "gaps_s": None,
    }  # fmt: skip
    return base | changes


def stored(rows: list[dict[str, Any]] | pa.Table, group: int = 7) -> RequestsFile:
    """Rows as a requests.parquet of small row groups, in memory."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=SCHEMA)
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=group)
    return RequestsFile(file)


def session(number: int = 1, measured: float = 10.0) -> Session:
    return Session(number, 0.0, 3.0, measured, 1, "FINISHED")


def measure(rows: list[dict[str, Any]], stats: EngineStats | None = None, sessions: int = 1) -> dict[str, Any]:
    return summarise(stored(rows), stats or EngineStats(), [session(n + 1) for n in range(sessions)])


def test_times_follow_their_definitions() -> None:
    metrics = measure([row(0)])["metrics"]
    assert metrics["ttft_ms/mean"] == pytest.approx(1000)
    assert metrics["tpot_ms/mean"] == pytest.approx(500)  # (4 - 2) / (5 - 1)
    assert metrics["e2e_ms/p50"] == pytest.approx(3000)
    assert metrics["queue_ms/p50"] == pytest.approx(500)


def test_throughput_is_over_the_measured_seconds_of_all_sessions() -> None:
    metrics = measure([row(0), row(1, session=2)], sessions=2)["metrics"]
    assert metrics["measured_s"] == 20
    assert metrics["startup_s"] == 6
    assert metrics["output_tokens_per_s"] == pytest.approx(10 / 20)
    assert metrics["total_tokens_per_s"] == pytest.approx(30 / 20)
    assert metrics["requests_per_s"] == pytest.approx(2 / 20)


def test_error_rows_count_as_errors_and_nowhere_else() -> None:
    nothing = {"scheduled_s": None, "first_token_s": None, "last_token_s": None, "output_tokens": 0}
    bad = [row(1, error="too long", finish_reason="error", **nothing), row(2, error="too long", finish_reason=None)]
    metrics = measure([row(0), *bad, row(3, finish_reason="length")])["metrics"]
    assert (metrics["rows/total"], metrics["rows/ok"], metrics["rows/error"], metrics["rows/truncated"]) == (4, 2, 2, 1)
    assert metrics["tokens/output"] == 10
    assert metrics["ttft_ms/mean"] == pytest.approx(1000)


def test_one_output_token_has_no_tpot() -> None:
    result = measure([row(0, output_tokens=1, last_token_s=2.0), row(1)])
    assert result["samples"]["tpot_ms"] == 1
    assert result["metrics"]["tpot_ms/p50"] == pytest.approx(500)
    assert result["samples"]["ttft_ms"] == 2


def test_embedding_rows_have_end_to_end_times_only() -> None:
    pooled = [row(i, output_tokens=0, first_token_s=4.5, finish_reason=None) for i in range(3)]
    result = measure(pooled)
    assert result["metrics"]["e2e_ms/mean"] == pytest.approx(3000)
    assert result["metrics"]["ttft_ms/mean"] is None
    assert result["metrics"]["tpot_ms/p50"] is None
    assert result["metrics"]["rows/ok"] == 3


@pytest.mark.parametrize(("statistic", "needed"), [("p90", 10), ("p95", 20), ("p99", 100)])
def test_percentiles_need_enough_samples(statistic: str, needed: int) -> None:
    few, enough = (measure([row(i) for i in range(count)]) for count in (needed - 1, needed))
    assert few["metrics"][f"ttft_ms/{statistic}"] is None
    assert f"at least {needed} samples, there are {needed - 1}" in few["notes"][f"ttft_ms/{statistic}"]
    assert enough["metrics"][f"ttft_ms/{statistic}"] == pytest.approx(1000)
    assert f"ttft_ms/{statistic}" not in enough["notes"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.001, 1e4), min_size=100, max_size=300))
def test_percentiles_equal_a_naive_computation(seconds: list[float]) -> None:
    rows = [row(i, arrival_s=0.0, first_token_s=s, last_token_s=s) for i, s in enumerate(seconds)]
    metrics = measure(rows)["metrics"]
    ordered = sorted(seconds)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        place = share * (len(ordered) - 1)
        low, high = math.floor(place), math.ceil(place)
        expected = ordered[low] + (ordered[high] - ordered[low]) * (place - low)
        assert metrics[f"ttft_ms/{name}"] == pytest.approx(expected * 1e3, rel=1e-9)


def test_engine_figures() -> None:
    stats = EngineStats(kv_blocks_total=200, peak_kv_blocks=50, peak_running=7, startup={"load": 2.5})
    metrics = measure([row(0, cached_tokens=4, preemptions=2), row(1, preemptions=1)], stats)["metrics"]
    assert metrics["kv_use/peak"] == 0.25
    assert metrics["running/peak"] == 7
    assert metrics["prefix_hit_rate"] == pytest.approx(4 / 20)
    assert metrics["preemptions"] == 3
    assert metrics["startup_s/load"] == 2.5
    assert metrics["peak_memory_mib"] > 10
    assert metrics["drafts/accepted"] is metrics["drafts/length"] is None
    drafted = measure([row(0)], EngineStats(drafts=10, drafted_tokens=40, accepted_tokens=25))["metrics"]
    assert (drafted["drafts/accepted"], drafted["drafts/length"]) == (25 / 40, 3.5)


def test_no_rows_gives_nulls_with_notes_and_valid_json() -> None:
    result = summarise(stored([]), EngineStats(), [])
    json.dumps(result, allow_nan=False)
    assert result["metrics"]["rows/total"] == 0
    assert result["metrics"]["output_tokens_per_s"] is None
    missing = {name for name, value in result["metrics"].items() if value is None}
    assert missing == set(result["notes"])


def test_every_metric_is_defined_and_every_definition_is_measured() -> None:
    table, stats, sessions = simulate(120, bad=2)
    metrics = summarise(stored(table), stats, sessions)["metrics"]
    for name in metrics:
        assert definitions.find(name).definition
    assert set(definitions.names()) <= set(metrics)
    with pytest.raises(KeyError, match="ttft_ms/p42"):
        definitions.find("ttft_ms/p42")


def test_long_timeline_is_thinned_and_keeps_its_ends() -> None:
    points = tuple(TimelinePoint(i / 10, 4, 2, 0.5, i * 4) for i in range(50_000))
    timeline = measure([row(0)], EngineStats(timeline=points))["timeline"]
    assert len(timeline["time_s"]) <= 1200
    assert timeline["output_tokens"][0] == 0
    assert timeline["output_tokens"][-1] == 49_999 * 4
    assert timeline["time_s"] == sorted(timeline["time_s"])


def test_of_a_million_requests_one_kind_of_time_is_in_memory() -> None:
    count = 1_000_000
    rng = np.random.default_rng(0)
    first = rng.random(count)
    columns: dict[str, Any] = {
        "index": np.arange(count), "id": pa.array(["x"] * count), "session": np.ones(count, np.int32),
        "prompt_tokens": np.full(count, 3000, np.int32), "cached_tokens": np.zeros(count, np.int32),
        "output_tokens": np.full(count, 3, np.int32), "arrival_s": np.zeros(count), "scheduled_s": np.zeros(count),
        "first_token_s": first, "last_token_s": first + 1, "preemptions": np.zeros(count, np.int32),
        "finish_reason": pa.array(["stop"] * count), "error": pa.nulls(count, pa.string()),
        "sent_s": pa.nulls(count, pa.float64()), "phase": pa.nulls(count, pa.string()),
        "gaps_s": pa.nulls(count, pa.list_(pa.float32())),
    }  # fmt: skip
    table = pa.table(columns, schema=SCHEMA)
    file = stored(table, group=10_000)
    del table, first, columns
    tracemalloc.start()
    result = summarise(file, EngineStats(), [session()])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result["metrics"]["tokens/prompt"] == 3_000_000_000  # over 32 bits
    assert result["metrics"]["ttft_ms/p99"] == pytest.approx(990, abs=1)
    assert peak < 20 * 2**20  # one kind of time is 8 MB


def test_peak_memory_is_not_that_of_the_launching_process() -> None:
    ballast = bytearray(2**29)
    ballast[::4096] = b"x" * len(ballast[::4096])  # touched, so that it is resident
    code = "from runner.measure.summary import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert peak_memory_mib() > 512
    assert 10 < float(done.stdout) < 400
