"""A sweep in MLflow: one parent, a child for each job, and every end told, by database file and by server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.sweep.folder import Sweep
from runner.tracking.store import client_of
from tests.runner.launch import SECONDS, articles, environment, run, start, succeed
from tests.runner.sweep.sweeps import metrics, rows_of, states, sweep_in, wait_for

WORDS = ("-m", "+recipe=demo", "engine=null_engine", "dataset.path=articles.jsonl", "dataset.limit=null",
         "sampling.max_tokens=8", "engine.max_num_seqs=4")  # fmt: skip


def family(uri: str, sweep: Sweep) -> tuple[Any, list[Any]]:
    """The sweep's MLflow run, and its children in the order of their jobs."""
    client = client_of(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == sweep.experiment]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return parent, sorted(children, key=lambda child: int(child.data.tags["galley.job"]))


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'outputs' / 'mlflow.db'}"


def test_eight_jobs_start_at_once_on_a_fresh_database(tmp_path: Path) -> None:
    articles(tmp_path, 5)
    words = ("engine.max_num_seqs=1,2,3,4", "sweep.repeats=2", "hydra.launcher.jobs=8")
    succeed(tmp_path, *WORDS[:-1], *words)
    sweep = sweep_in(tmp_path)
    parent, children = family(database(tmp_path), sweep)
    assert (parent.info.run_name, parent.info.status) == (sweep.path.name, "FINISHED")
    assert [child.info.status for child in children] == ["FINISHED"] * 8
    assert [child.data.tags["galley.repeat"] for child in children] == ["1"] * 4 + ["2"] * 4
    assert [child.data.tags["galley.set.engine.max_num_seqs"] for child in children] == ["1", "2", "3", "4"] * 2
    for child, state in zip(children, states(sweep), strict=True):
        assert state.run_dir is not None
        assert child.info.run_name == state.run_dir.name
        assert child.data.metrics["rows/ok"] == 5
        assert child.data.metrics["system/system_memory_usage_percentage"] > 0
        assert child.inputs.dataset_inputs[0].dataset.name == "articles.jsonl"
        assert "could not" not in (state.run_dir / "run.log").read_text()
    client = client_of(database(tmp_path))
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {
        "report.html", "report.md", "sweep.json", "table.csv",
    }  # fmt: skip
    assert "sample.jsonl" in {a.path for a in client.list_artifacts(children[0].info.run_id)}
    means = client.get_metric_history(parent.info.run_id, "requests_per_s/mean")
    assert [point.step for point in means] == [1, 2, 3, 4]
    both = [metrics(states(sweep)[place])["requests_per_s"] for place in (1, 5)]
    assert means[1].value == pytest.approx(sum(both) / 2)
    deviations = client.get_metric_history(parent.info.run_id, "requests_per_s/sd")
    assert deviations[1].value == pytest.approx(abs(both[0] - both[1]) / 2**0.5)


def test_a_dead_jobs_run_is_failed_and_a_stopped_ones_killed(tmp_path: Path) -> None:
    """And a sweep that goes on goes on in the same runs."""
    articles(tmp_path, 40)
    words = (*WORDS, "engine.seconds_per_step=0.02", "sampling.max_tokens=7,8,90", "hydra.launcher.jobs=2")
    words = tuple(word for word in words if word != "sampling.max_tokens=8")
    process = start(tmp_path, *words)
    sweep = wait_for(process, tmp_path, lambda sweep: rows_of(sweep, 1) >= 1)
    pid = sweep.state(sweep.jobs[0]).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(process, tmp_path, lambda sweep: rows_of(sweep, 3) >= 1)
    _, early = family(database(tmp_path), sweep)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, err
    parent, children = family(database(tmp_path), sweep)
    assert early[0].info.status == "FAILED"  # told at once, not at the sweep's end
    assert parent.info.status == "KILLED"
    assert [child.info.status for child in children] in (
        ["FAILED", "KILLED", "KILLED"],
        ["FAILED", "FINISHED", "KILLED"],
    )
    assert "SIGKILL" in children[0].data.tags["galley.error"]
    succeed(tmp_path, *words)
    again, finished = family(database(tmp_path), sweep)
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    assert [child.info.run_id for child in finished] == [child.info.run_id for child in children]
    assert [child.info.status for child in finished] == ["FINISHED"] * 3
    assert [child.data.metrics["rows/ok"] for child in finished] == [40] * 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server of MLflow's own, without the workers that have nothing to do with tracking."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder)),
    ]
    place = environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=place, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for_server(process, uri)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=SECONDS)


def _wait_for_server(process: subprocess.Popen[bytes], uri: str) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "mlflow server ended"
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail("mlflow server does not answer")


def test_an_http_server_holds_the_same(server: str, tmp_path: Path) -> None:
    articles(tmp_path, 5)
    words = ("engine.fail_after=null,2", "hydra.launcher.jobs=2", f"tracking.tracking_uri={server}")
    result = run(tmp_path, *WORDS, *words)
    assert result.returncode == 1, result.stderr
    parent, children = family(server, sweep_in(tmp_path))
    assert parent.info.status == "FAILED"
    assert [child.info.status for child in children] == ["FINISHED", "FAILED"]
    assert "fails after 2 outputs" in children[1].data.tags["galley.error"]
    assert children[0].data.metrics["rows/ok"] == 5
    assert {a.path for a in client_of(server).list_artifacts(parent.info.run_id)} >= {"table.csv", "report.html"}
    assert not (tmp_path / "outputs" / "mlflow.db").exists()
    assert "\N{RUNNER}" not in result.stdout  # MLflow's own lines
