"""What is measured under load agrees with queueing theory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from runner.dataset import Row
from runner.drive import Placed
from runner.measure.batch_means import batch_means
from runner.null_async import NullAsyncLLM
from tests.runner.launch import only_run, succeed
from tests.runner.load.simulated import rows, section, simulate, waits

SERVICE = 0.010


def md1(load: float, service: float = SERVICE) -> float:
    """Mean wait for one server, Poisson arrivals and a constant service time (Pollaczek and Khinchine)."""
    return load * service / (2 * (1 - load))


def mean_wait(rho: float, seed: int, count: int = 4000) -> tuple[float, float]:
    """Mean wait and half width of its interval, in simulated seconds."""
    engine = NullAsyncLLM(seconds_per_request=SERVICE, max_num_seqs=1)
    entries = simulate(section(kind="poisson", rate=rho / SERVICE, seed=seed, warmup=400), rows(count), engine)
    found = batch_means(np.array(waits(entry for entry in entries if entry.phase == "measured")))
    assert found is not None
    return found


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_poisson_arrivals_at_one_server_wait_as_md1_says(rho: float) -> None:
    mean, half = mean_wait(rho, seed=0, count=12_000)
    assert abs(mean - md1(rho)) <= half
    assert half < 0.35 * md1(rho)  # the interval says something


def test_the_interval_holds_as_often_as_it_says() -> None:
    """95 % of 20 runs is 19; fewer than 17 would have a chance of 2 %."""
    held = sum(abs(mean - md1(0.6)) <= half for mean, half in (mean_wait(0.6, seed) for seed in range(20)))
    assert held >= 17


def test_the_usual_interval_would_be_far_too_narrow() -> None:
    """Why batch means: waits of neighbours depend on each other."""
    engine = NullAsyncLLM(seconds_per_request=SERVICE, max_num_seqs=1)
    found = np.array(waits(simulate(section(kind="poisson", rate=80.0), rows(12_000), engine)))
    independent = 1.96 * found.std() / np.sqrt(found.size)
    batches = batch_means(found)
    assert batches is not None
    assert batches[1] > 3 * independent


def test_the_timeline_tells_what_the_servers_do() -> None:
    """Never more at work than there are servers, and together exactly the declared work."""
    engine = NullAsyncLLM(seconds_per_request=SERVICE, max_num_seqs=3)
    simulate(section(kind="bursty", rate=250.0, burstiness=0.3), rows(300), engine)
    stats = asyncio.run(engine.stats())
    assert max(point.running for point in stats.timeline) == stats.peak_running == 3
    assert (stats.timeline[-1].running, stats.running, stats.waiting) == (0, 0, 0)
    assert min(point.waiting for point in stats.timeline) == 0
    assert max(point.waiting for point in stats.timeline) > 3
    times = [point.time for point in stats.timeline]
    held = zip(stats.timeline, np.diff(times), strict=False)
    assert sum(point.running * seconds for point, seconds in held) == pytest.approx(300 * SERVICE)


def test_constant_arrivals_below_saturation_never_wait() -> None:
    engine = NullAsyncLLM(seconds_per_request=SERVICE, max_num_seqs=1)
    entries = simulate(section(kind="constant", rate=99.0), rows(500), engine)
    assert max(waits(entries)) < 1e-9


def test_bursts_wait_longer_than_poisson_and_even_arrivals_less() -> None:
    means = []
    for burstiness in (0.2, 1.0, 5.0):
        engine = NullAsyncLLM(seconds_per_request=SERVICE, max_num_seqs=1)
        load = section(kind="bursty", rate=60.0, burstiness=burstiness)
        means.append(float(np.mean(waits(simulate(load, rows(8000), engine)))))
    assert means[0] > 2 * means[1] > 4 * means[2]


def test_a_stalled_engine_cannot_thin_out_its_load() -> None:
    """No coordinated omission: requests that arrive in a stall wait from when they were to arrive."""
    stall = rows(400)
    stall[100] = Placed(100, Row(100, "100", {"text": "x" * 40_000}))
    speed = {"seconds_per_prompt_token": 0.0001, "max_num_seqs": 1}  # 1 s for row 100, 0.1 ms for others
    found = waits(simulate(section(kind="constant", rate=100.0), stall, NullAsyncLLM(**speed)))
    assert sum(wait > 0.05 for wait in found) == pytest.approx(
        95, abs=2
    )  # a second of arrivals, but for the last 50 ms
    assert max(found) == pytest.approx(0.99, abs=0.01)
    closed = waits(simulate(section(kind="concurrency", users=1), stall, NullAsyncLLM(**speed)))
    assert max(closed) < 1e-3  # what a closed loop of one user would have said


def test_a_short_load_in_real_time_measures_the_same_queue(tmp_path: Path) -> None:
    """The whole runner on the clock of the machine: waits follow from the arrivals that it wrote down."""
    words = (
        "name=x", "engine=null_engine", "tracking=none", "model.name=none", "dataset=synthetic", "dataset.rows=300",
        "prompt.token_ids=prompt_token_ids", "sampling.detokenize=false", "load=poisson", "load.rate=150",
        "engine.seconds_per_request=0.005", "engine.max_num_seqs=1", "load.warmup=20", "load.max_lag_ms=60000",
    )  # fmt: skip
    succeed(tmp_path, *words)
    path = only_run(tmp_path, "x")
    table = sorted(pq.read_table(path / "requests.parquet").to_pylist(), key=lambda row: row["sent_s"])
    free, queued = -np.inf, 0
    for row in table:  # one server, first come first served: Lindley's recursion
        assert row["scheduled_s"] >= max(row["sent_s"], free) - 1e-6
        queued += abs(row["scheduled_s"] - free) < 1e-6
        free = row["scheduled_s"] + 0.005
    assert queued > 100  # at 0.75 of its capacity
    flat = json.loads((path / "metrics.json").read_text())["metrics"]
    measured = [row["scheduled_s"] - row["arrival_s"] for row in table if row["phase"] == "measured"]
    assert flat["queue_ms/mean"] == pytest.approx(np.mean(measured) * 1e3)
    assert flat["load/warmup"] == 20
    assert len(measured) == 280
