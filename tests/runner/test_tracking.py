"""MLflow holds the run; its trouble costs no row; many processes may start at once."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.run_info import RunInfo
from runner.tracking import TrackingError, open_tracker
from runner.tracking.flatten import flatten
from runner.tracking.mlflow_run import MlflowTracker
from runner.tracking.store import absolute_uri
from tests.runner.run_folder import write_run_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output folder, hence one database, for the tests that share it: making the schema takes seconds."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def finished(root: Path) -> tuple[RunInfo, MlflowTracker]:
    run = write_run_folder(root, rows=120)
    tracker = open_mlflow(run, root)
    for step in range(1, 6):
        tracker.log_progress(step, {"progress/output_tokens_per_s": 10.0 * step, "progress/bad": float("nan")})
    metrics = json.loads((run.run_dir / "metrics.json").read_text())
    files = [run.run_dir / name for name in ("config.yaml", "manifest.json", "metrics.json", "absent.txt")]
    tracker.finish("FINISHED", metrics, files)
    return run, tracker


def open_mlflow(run: RunInfo, root: Path, uri: str | None = None) -> MlflowTracker:
    tracker = open_tracker("mlflow", run, tracking_uri=uri, experiment=None, output_root=root)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")


def find(root: Path, run: RunInfo) -> Any:
    record = json.loads((run.run_dir / "tracking.json").read_text())
    return client(root).get_run(record["mlflow_run_id"])


def test_run_holds_parameters_metrics_tags_and_dataset(root: Path, finished: tuple[RunInfo, MlflowTracker]) -> None:
    run, _ = finished
    logged = find(root, run)
    metrics = json.loads((run.run_dir / "metrics.json").read_text())["metrics"]
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == run.run_id
    assert client(root).get_experiment(logged.info.experiment_id).name == "demo"
    assert logged.data.params["engine.max_model_len"] == "2048"
    assert logged.data.params["sinks.1.kind"] == "parquet"
    assert logged.data.tags["galley.config_hash"] == run.config_hash
    assert logged.data.tags["device.name"] == "Example CPU"
    expected = {name: value for name, value in metrics.items() if value is not None}
    series = logged.data.metrics.pop("progress/output_tokens_per_s")
    assert series == 50.0
    assert logged.data.metrics == pytest.approx(expected)
    (used,) = logged.inputs.dataset_inputs
    assert used.dataset.name == "articles.jsonl"
    assert ("sha256:" + "5d41" * 16).removeprefix("sha256:").startswith(used.dataset.digest)


def test_time_series_keeps_every_step(root: Path, finished: tuple[RunInfo, MlflowTracker]) -> None:
    run_id = find(root, finished[0]).info.run_id
    history = client(root).get_metric_history(run_id, "progress/output_tokens_per_s")
    assert [(point.step, point.value) for point in history] == [(step, 10.0 * step) for step in range(1, 6)]


def test_artifacts_lie_under_the_output_root(root: Path, finished: tuple[RunInfo, MlflowTracker]) -> None:
    run = find(root, finished[0])
    assert run.info.artifact_uri.startswith((root / "mlflow-artifacts").as_uri())
    names = {item.path for item in client(root).list_artifacts(run.info.run_id)}
    assert names == {"config.yaml", "manifest.json", "metrics.json"}


def test_description_has_the_ui_command(root: Path, finished: tuple[RunInfo, MlflowTracker]) -> None:
    run, tracker = finished
    text = tracker.describe()
    assert f"mlflow ui --backend-store-uri sqlite:///{root / 'mlflow.db'}" in text
    assert run.run_id in text


def test_resumed_run_folder_goes_on_with_the_same_mlflow_run(root: Path, tmp_path: Path) -> None:
    run = write_run_folder(tmp_path, rows=4)
    first = open_mlflow(run, root)
    first.log_progress(1, {"progress/rows": 1})
    first.finish("KILLED", {}, [])
    run_id = find(root, run).info.run_id
    second = open_mlflow(run, root)
    assert find(root, run).info.status == "RUNNING"
    second.log_progress(2, {"progress/rows": 2})
    second.finish("FINISHED", {}, [])
    again = find(root, run)
    assert (again.info.run_id, again.info.status) == (run_id, "FINISHED")
    assert len(client(root).get_metric_history(run_id, "progress/rows")) == 2


def test_deleted_mlflow_run_is_replaced_with_a_warning(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run_folder(tmp_path, rows=4)
    (run.run_dir / "tracking.json").write_text("{not json")
    open_mlflow(run, root).finish("FINISHED", {}, [])
    assert "a new one is started" in caplog.text
    assert find(root, run).info.status == "FINISHED"


def test_trouble_while_running_warns_once_and_raises_nothing(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run_folder(tmp_path, rows=4)
    tracker = open_mlflow(run, root)
    monkeypatch.setattr("runner.tracking.mlflow_run.FLUSH_SECONDS", 0.0)

    monkeypatch.setattr("runner.tracking.mlflow_run.ATTEMPTS", 1)

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("the disk is gone")

    for name in ("log_batch", "log_artifact", "log_inputs", "set_terminated"):
        monkeypatch.setattr(tracker._store.client, name, broken)
    for step in range(20):
        tracker.log_progress(step, {"progress/rows": step})
    tracker.finish("FINISHED", {"metrics": {"rows/ok": 1}}, [run.run_dir / "config.yaml"])
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "the disk is gone" in warnings[0].getMessage()


def test_points_of_a_short_outage_are_written_later(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run_folder(tmp_path, rows=4)
    tracker = open_mlflow(run, root)
    monkeypatch.setattr("runner.tracking.mlflow_run.FLUSH_SECONDS", 0.0)
    real, calls = tracker._store.client.log_batch, []

    def flaky(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no route")
        real(*args, **kwargs)

    monkeypatch.setattr(tracker._store.client, "log_batch", flaky)
    for step in range(5):
        tracker.log_progress(step, {"progress/rows": step})
    tracker.finish("FINISHED", {}, [])
    history = client(root).get_metric_history(find(root, run).info.run_id, "progress/rows")
    assert [point.step for point in history] == list(range(5))


@pytest.mark.parametrize("uri", ["mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "sqllite:///x.db"])
def test_wrong_uri_is_a_clear_error_at_the_start(uri: str, tmp_path: Path) -> None:
    run = write_run_folder(tmp_path, rows=4)
    with pytest.raises(TrackingError, match="tracking_uri") as caught:
        open_mlflow(run, tmp_path, uri)
    assert uri in str(caught.value)
    assert "sqlite" in str(caught.value)


def test_unreachable_server_is_a_clear_error(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path, rows=4)
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9.*cannot be used"):
        open_mlflow(run, tmp_path, "http://127.0.0.1:9")


def test_unknown_kind_names_the_allowed_ones(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path, rows=4)
    with pytest.raises(TrackingError, match=r"'wandb'.*mlflow, none"):
        open_tracker("wandb", run, tracking_uri=None, experiment=None, output_root=tmp_path)


def test_none_leaves_no_trace(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path, rows=4)
    before = sorted(tmp_path.rglob("*"))
    tracker = open_tracker("none", run, tracking_uri="nonsense", experiment=None, output_root=tmp_path)
    tracker.log_progress(1, {"x": 1.0})
    tracker.finish("FINISHED", {}, [])
    assert sorted(tmp_path.rglob("*")) == before
    assert "off" in tracker.describe()


def test_relative_sqlite_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///a/b.db", tmp_path) == f"sqlite:///{tmp_path}/a/b.db"
    assert absolute_uri(f"sqlite:///{tmp_path}/b.db", tmp_path) == f"sqlite:///{tmp_path}/b.db"
    assert absolute_uri(None, Path("out")) == f"sqlite:///{tmp_path}/out/mlflow.db"


OPEN_ONE = """
import sys
from dataclasses import replace
from pathlib import Path
from runner.run_info import RunInfo
from runner.tracking import open_tracker
root, name = Path(sys.argv[1]), sys.argv[2]
run = RunInfo("sweep", name, root / "sweep" / name, {"seed": name}, "hash", ["runner"])
tracker = open_tracker("mlflow", run, tracking_uri=None, experiment=None, output_root=root)
for step in range(50):
    tracker.log_progress(step, {"progress/rows": step})
tracker.finish("FINISHED", {"metrics": {"rows/ok": 50}}, [])
"""


def test_four_processes_start_at_once_on_a_fresh_database(tmp_path: Path) -> None:
    starts = [
        subprocess.Popen([sys.executable, "-c", OPEN_ONE, str(tmp_path), f"job-{i}"], stderr=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    errors = [process.communicate()[1] for process in starts]
    assert [process.returncode for process in starts] == [0] * 4, errors
    assert errors == [""] * 4  # no warning, and none of MLflow's or Alembic's chatter
    (experiment,) = [e for e in client(tmp_path).search_experiments() if e.name == "sweep"]
    runs = client(tmp_path).search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == [f"job-{i}" for i in range(4)]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert len(client(tmp_path).get_metric_history(run.info.run_id, "progress/rows")) == 50


def test_flatten_keeps_different_long_values_different() -> None:
    flat = flatten({"a": {"x": "p" * 1000 + "1"}, "b": {"x": "p" * 1000 + "2"}, "c": [], "d": [1, "é"], "e": None})
    assert flat["a.x"] != flat["b.x"]
    assert max(len(value) for value in flat.values()) <= 500
    assert (flat["c"], flat["d"], flat["e"]) == ("[]", '[1, "é"]', "null")


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=700)
trees = st.recursive(leaves, lambda t: st.dictionaries(st.text(min_size=1, max_size=300), t, max_size=3), max_leaves=8)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=300), trees, min_size=1, max_size=4))
def test_flatten_gives_keys_and_values_that_mlflow_takes(config: dict[str, Any]) -> None:
    from mlflow.utils.validation import _validate_param

    for key, value in flatten(config).items():
        _validate_param(key, value)
