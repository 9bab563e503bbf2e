"""Whole runs under load: what they leave, what ends them, and what their verdict says of it."""

from __future__ import annotations

import json
import shlex
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from runner.config.load import PoissonLoad
from runner.load.arrivals import arrivals, arrivals_before, digest_of
from tests.runner.launch import SECONDS, articles, only_run, records, refused, run, start, succeed, wait_for_rows

BASE = ("name=x", "engine=null_engine", "tracking=none", "model.name=none", "prompt.template='{{ article }}'")
ROWS = (*BASE, "dataset=jsonl", "dataset.path=articles.jsonl", "dataset.id_column=id")
LATE = "load.max_lag_ms=60000"  # what a busy machine does is not under test


def requests(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(only_run(folder, "x") / "requests.parquet").to_pylist()
    return found


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((only_run(folder, "x") / "metrics.json").read_text())
    return found


def report(folder: Path) -> str:
    return (only_run(folder, "x") / "report.md").read_text()


def test_outputs_are_those_of_an_offline_run(tmp_path: Path) -> None:
    outputs = []
    for name, load in (("a", ()), ("b", ("load=bursty", "load.rate=300", LATE)), ("c", ("load=concurrency",))):
        (tmp_path / name).mkdir()
        articles(tmp_path / name, 40)
        succeed(tmp_path / name, *ROWS, *load)
        outputs.append((only_run(tmp_path / name, "x") / "outputs.jsonl").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


def test_figures_follow_from_the_requests(tmp_path: Path) -> None:
    articles(tmp_path, 60)
    words = ("load=poisson", "load.rate=100", "load.seed=4", "load.warmup=10", "load.goodput.ttft_ms=30", LATE,
             "engine.seconds_per_step=0.002", "engine.max_num_seqs=2", "engine.seconds_per_request=0.01")  # fmt: skip
    succeed(tmp_path, *ROWS, *words)
    found, rows = metrics(tmp_path), requests(tmp_path)
    flat, measured = found["metrics"], [row for row in rows if row["phase"] == "measured"]
    assert [row["phase"] for row in rows] == ["warmup"] * 10 + ["measured"] * 50
    assert all(row["sent_s"] >= row["arrival_s"] - 1e-6 for row in rows)
    seconds = max(row["last_token_s"] for row in measured) - min(row["arrival_s"] for row in measured)
    good = sum(row["first_token_s"] - row["arrival_s"] <= 0.030 for row in measured)
    assert flat["measured_s"] == pytest.approx(seconds)
    assert flat["requests_per_s"] == pytest.approx(50 / seconds)
    assert flat["load/good_share"] == pytest.approx(good / 50)
    assert flat["load/goodput_per_s"] == pytest.approx(good / seconds)
    assert (flat["rows/ok"], flat["load/warmup"], flat["load/asked_per_s"]) == (60, 10, 100)
    span = measured[-1]["arrival_s"] - measured[0]["arrival_s"]
    assert flat["load/arrived_per_s"] == pytest.approx(49 / span)
    gaps = [gap for row in measured for gap in row["gaps_s"] or ()]
    assert len(gaps) == sum(row["output_tokens"] - 1 for row in measured) == found["samples"]["itl_ms"]
    assert flat["itl_ms/mean"] == pytest.approx(1e3 * sum(gaps) / len(gaps), rel=1e-4)
    assert flat["itl_ms/p50"] == pytest.approx(1e3 * sorted(gaps)[(len(gaps) - 1) // 2], rel=2e-3)
    assert found["load"]["schedule"] == digest_of(PoissonLoad(rate=100, seed=4), 50)
    schedule = list(islice(arrivals(PoissonLoad(rate=100, seed=4)), 50))
    begun = measured[0]["arrival_s"] - schedule[0]
    assert [row["arrival_s"] - begun for row in measured] == pytest.approx(schedule)
    assert max(row["last_token_s"] for row in rows[:10]) <= begun
    text = report(tmp_path)
    assert text.startswith("# x: VALID")
    assert all(part in text for part in ("Goodput", "Generator lag", "ITL", found["load"]["schedule"]))


def test_a_duration_takes_the_rows_that_arrive_in_it(tmp_path: Path) -> None:
    articles(tmp_path, 200)
    words = (*ROWS, "load=poisson", "load.rate=50", "load.duration_s=1.5", "load.warmup=3", LATE)
    succeed(tmp_path, *words)
    assert len(requests(tmp_path)) == 3 + arrivals_before(PoissonLoad(rate=50), 1.5)
    assert report(tmp_path).startswith("# x: VALID")
    (tmp_path / "short").mkdir()
    articles(tmp_path / "short", 20)
    succeed(tmp_path / "short", *words)
    assert "The dataset ended after" in report(tmp_path / "short")


def test_a_closed_loop_has_so_many_users_and_ends_by_the_clock(tmp_path: Path) -> None:
    articles(tmp_path, 3000)
    words = ("load=concurrency", "load.users=3", "load.duration_s=1", "engine.seconds_per_request=0.02")
    succeed(tmp_path, *ROWS, *words)
    rows, flat = requests(tmp_path), metrics(tmp_path)["metrics"]
    assert 10 < len(rows) <= 153
    for row in rows:
        under_way = sum(other["sent_s"] <= row["sent_s"] < other["last_token_s"] for other in rows)
        assert under_way <= 3
    assert flat["load/asked_per_s"] is None
    assert report(tmp_path).startswith("# x: VALID")
    assert len(records(only_run(tmp_path, "x") / "outputs.jsonl")) == len(rows)


def test_a_late_generator_makes_the_run_invalid(tmp_path: Path) -> None:
    articles(tmp_path, 20)
    succeed(tmp_path, *ROWS, "load=constant", "load.rate=1000", "load.max_lag_ms=0.000001")
    text = report(tmp_path)
    assert text.startswith("# x: INVALID")
    assert "Generator too slow" in text


def test_embeddings_under_load(tmp_path: Path) -> None:
    articles(tmp_path, 20)
    succeed(tmp_path, *ROWS, "task=embed", "load=constant", "load.rate=200", "load.goodput.e2e_ms=60000", LATE)
    flat = metrics(tmp_path)["metrics"]
    assert flat["load/good_share"] == 1
    assert flat["itl_ms/mean"] is None


SLOW = (*ROWS, "load=poisson", "load.rate=25", LATE, "engine.seconds_per_step=0.004", "sampling.max_tokens=8")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_load_loses_no_row_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    articles(tmp_path, 60)
    process = start(tmp_path, *SLOW)
    wait_for_rows(process, tmp_path, 15, "x")
    process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    again = SLOW
    if number is signal.SIGTERM:
        assert process.returncode == 143
        assert "Traceback" not in err
        (line,) = [line for line in err.splitlines() if line.startswith("resume with: runner ")]
        again = tuple(shlex.split(line)[3:])
    succeed(tmp_path, *again)
    path = only_run(tmp_path, "x")
    (tmp_path / "whole").mkdir()
    articles(tmp_path / "whole", 60)
    succeed(tmp_path / "whole", *ROWS, "sampling.max_tokens=8")
    assert (path / "outputs.jsonl").read_bytes() == (only_run(tmp_path / "whole", "x") / "outputs.jsonl").read_bytes()
    rows = requests(tmp_path)
    assert [row["session"] for row in rows if row["session"] == 2]
    text = report(tmp_path)
    assert text.startswith("# x: INVALID")
    assert "Interrupted: 2 sessions" in text
    assert "Wrong counts" not in text


ENDS_BY_ITSELF = {
    "search": ("load=saturation", "load.rate_min=20", "load.rate_max=40", "load.trial_requests=20", LATE,
               "load.goodput.tpot_ms=60000", "load.resolution=0.9"),
    "clock": ("load=concurrency", "load.users=2", "load.duration_s=2"),
}  # fmt: skip


@pytest.mark.parametrize("load", ENDS_BY_ITSELF)
def test_loads_that_end_before_the_dataset_resume_too(tmp_path: Path, load: str) -> None:
    articles(tmp_path, 400)
    words = (*ROWS, *ENDS_BY_ITSELF[load], "engine.seconds_per_request=0.02")
    process = start(tmp_path, *words)
    wait_for_rows(process, tmp_path, 8, "x")
    process.kill()
    process.communicate()
    succeed(tmp_path, *words)
    indices = [row["index"] for row in requests(tmp_path)]
    assert indices == list(range(len(indices)))  # no gap: what was under way was done again
    text = report(tmp_path)
    assert "Interrupted: 2 sessions" in text
    assert "Wrong counts" not in text


def test_an_engine_that_fails_leaves_a_run_to_resume(tmp_path: Path) -> None:
    articles(tmp_path, 20)
    message = refused(tmp_path, *ROWS, "load=constant", "load.rate=500", "engine.fail_after=4", LATE, code=1)
    assert "the null engine fails after 4 outputs" in message
    assert "4 rows are finished and kept" in message
    assert "resume with: runner" in message


def test_rows_in_error_are_records(tmp_path: Path) -> None:
    articles(tmp_path, 12)
    with (tmp_path / "articles.jsonl").open("a") as stream:
        stream.write('broken\n{"id": "long", "article": "' + "x" * 500 + '"}\n')
    words = ("load=constant", "load.rate=500", "engine.max_model_len=100", "max_error_rate=0.5", LATE,
             "load.goodput.ttft_ms=60000")  # fmt: skip
    succeed(tmp_path, *ROWS, *words)
    unread, long = records(only_run(tmp_path, "x") / "errors.jsonl")
    assert "line 13 is not JSON" in unread["error"]
    assert "125 tokens" in long["error"]
    assert metrics(tmp_path)["metrics"]["load/good_share"] == pytest.approx(12 / 14)


def test_saturation_from_the_command_line(tmp_path: Path) -> None:
    words = (
        *BASE[:-1], "dataset=synthetic", "dataset.rows=300", "prompt.token_ids=prompt_token_ids", LATE,
        "sampling.detokenize=false", "load=saturation", "load.rate_min=100", "load.rate_max=800", "load.resolution=0.5",
        "load.trial_requests=50", "load.goodput.e2e_ms=6", "engine.seconds_per_request=0.004", "engine.max_num_seqs=1",
        "load.attainment=0.01",
    )  # fmt: skip
    succeed(tmp_path, *words)
    found = metrics(tmp_path)
    trials = found["load"]["trials"]
    assert found["load"]["complete"]
    assert len(requests(tmp_path)) == 50 * len(trials)
    assert found["metrics"]["load/saturation_per_s"] == max(t["rate_per_s"] for t in trials if t["holds"])
    for text in (report(tmp_path), (only_run(tmp_path, "x") / "report.html").read_text()):
        assert "Search for saturation" in text
        assert all(trial["phase"] in text for trial in trials)
        assert "Wrong counts" not in text


CASES = {
    "rate": (("load=poisson", "load.rate=0"), ["load.rate=0", "greater than 0"]),
    "users": (("load=concurrency", "load.users=0"), ["load.users=0", "greater than or equal to 1"]),
    "kind": (("load=poison",), ["load='poison'", "did you mean 'poisson'?"]),
    "key of another kind": (("load=constant", "+load.users=3"), ["load.users=3", "load.kind='constant'"]),
    "offline": (("+load.rate=3",), ["load.rate=3", "load.kind='offline'", "load=offline"]),
    "warm-up of everything": (("load=constant", "load.warmup=20"), ["load.warmup=20", "20 rows"]),
    "empty duration": (("load=poisson", "load.rate=0.01", "load.duration_s=1"), ["load.duration_s=1", "no request"]),
    "limits of an embedding": (
        ("task=embed", "load=constant", "load.goodput.ttft_ms=3"), ["load.goodput.ttft_ms=3", "task=embed", "e2e_ms"],
    ),
    "search without limits": (("load=saturation",), ["load.goodput", "ttft_ms, tpot_ms or e2e_ms"]),
    "rates in the wrong order": (
        ("load=saturation", "load.goodput.tpot_ms=3", "load.rate_min=9", "load.rate_max=3"),
        ["load.rate_min=9", "rate_max=3"],
    ),
    "short trials": (
        ("load=saturation", "load.goodput.ttft_ms=500", "load.trial_requests=50"),
        ["load.trial_requests=50", "at least 320"],
    ),
    "too few rows": (("load=saturation", "load.goodput.tpot_ms=3"), ["9 trials", "1800 rows", "has 20"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message(tmp_path: Path, name: str) -> None:
    articles(tmp_path, 20)
    words, expected = CASES[name]
    message = refused(tmp_path, *ROWS, *words)
    for part in expected:
        assert part in message
    assert not (tmp_path / "outputs").exists()


def test_mlflow_has_the_load(tmp_path: Path) -> None:
    import mlflow

    articles(tmp_path, 12)
    words = [word for word in ROWS if word != "tracking=none"]
    assert run(tmp_path, *words, "load=constant", "load.rate=300", LATE).returncode == 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    assert found.data.metrics["load/asked_per_s"] == 300
    assert found.data.params["load.kind"] == "constant"
    assert "lag_ms/mean" in found.data.metrics
