"""A run in MLflow, through ``MlflowClient`` and explicit run ids only: no fluent global state."""

from __future__ import annotations

import json
import logging
import math
import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from runner.manifest import dataset_name, git_state
from runner.run_info import RunInfo
from runner.run_outcome import first_records
from runner.tracking.flatten import flatten
from runner.tracking.record import ERROR_TAG, RECORD, MlflowRunRecord
from runner.tracking.store import Store, mlflow_command, open_store
from runner.tracking.system import SystemMetrics
from runner.tracking.tracker import Status

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
MOST_BUFFERED = 1000  # MLflow's limit for one batch; older points give way if the server stays away
MOST_PARAMS = 100  # MLflow's limit for one batch
SAMPLE_ROWS = 20
ATTEMPTS = 3  # for what is written once: another process may hold the database for a moment


def open_mlflow_run(
    run: RunInfo, tracking_uri: str | None, experiment: str, output_root: Path, system_metrics: bool
) -> MlflowTracker:
    """Open the store, find or create the experiment and the run, and log parameters and tags.

    Raises:
        TrackingError: MLflow cannot be reached at that URI.
    """
    store = open_store(tracking_uri, experiment, output_root)
    run_id = _resumed(run, store) or _created(run, store)
    tracker = MlflowTracker(store, run, run_id)
    tracker.log_config()
    if system_metrics:
        tracker.follow_system()
    return tracker


def _resumed(run: RunInfo, store: Store) -> str | None:
    """The MLflow run that an earlier session of this run folder opened here, set to running again."""
    path = run.run_dir / RECORD
    if not path.exists():
        return None
    try:
        record = MlflowRunRecord(**json.loads(path.read_text(encoding="utf-8")))
        if record.tracking_uri != store.uri:
            return None
        found = store.client.get_run(record.mlflow_run_id)
        if found.info.lifecycle_stage != "active":
            return None
        store.client.update_run(record.mlflow_run_id, status="RUNNING")
    except Exception as error:  # a damaged record, or a run that somebody deleted: the rows are elsewhere
        _log.warning("%s names no MLflow run that can be continued (%s); a new one is started", path, error)
        return None
    return record.mlflow_run_id


def _created(run: RunInfo, store: Store) -> str:
    run_id: str = store.client.create_run(store.experiment_id, run_name=run.run_id).info.run_id
    record = MlflowRunRecord(store.uri, store.experiment, store.experiment_id, run_id)
    run.run_dir.mkdir(parents=True, exist_ok=True)
    (run.run_dir / RECORD).write_text(json.dumps(vars(record), indent=2) + "\n", encoding="utf-8")
    return run_id


class MlflowTracker:
    """Owns one MLflow run. A worker thread talks to MLflow while rows flow, so that a slow server slows no row."""

    def __init__(self, store: Store, run: RunInfo, mlflow_run_id: str) -> None:
        self._store = store
        self._run = run
        self._id = mlflow_run_id
        self._points: deque[Any] = deque(maxlen=MOST_BUFFERED)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._pending: Future[None] | None = None
        self._last_flush = time.monotonic()
        self._warned = False
        self._system: SystemMetrics | None = None

    @property
    def tracked_id(self) -> str | None:
        """The MLflow run."""
        return self._id

    def follow_system(self) -> None:
        """Log the machine's own metrics from now on to the end, as ``system/...``."""

        def start() -> None:
            self._system = SystemMetrics(self._id, self._store.uri)

        self._safely("follow the machine", start)

    def log_config(self) -> None:
        """Log what identifies the run: flattened configuration as parameters; git, hash and command as tags."""
        git = git_state(Path.cwd()) or {}
        tags = {
            "galley.recipe": self._run.recipe,
            "galley.config_hash": self._run.config_hash,
            "galley.command": shlex.join(self._run.command),
            "galley.run_dir": str(self._run.run_dir.absolute()),
            "git.commit": git.get("commit"),
            "git.dirty": str(git["dirty"]).lower() if git else None,
        }
        if self._run.job is not None:
            tags |= self._run.job.tags()
        self._safely("log the configuration", lambda: self._write_config(tags))

    def _write_config(self, tags: Mapping[str, str | None]) -> None:
        from mlflow.entities import Param

        known = self._store.client.get_run(self._id).data.params
        params = [Param(k, v) for k, v in flatten(self._run.config).items() if k not in known]
        self._write_tags(tags)
        for start in range(0, len(params), MOST_PARAMS):
            self._store.client.log_batch(self._id, params=params[start : start + MOST_PARAMS])

    def _write_tags(self, tags: Mapping[str, str | None]) -> None:
        from mlflow.entities import RunTag

        shortened = [RunTag(k, v[:5000]) for k, v in tags.items() if v is not None]
        self._store.client.log_batch(self._id, tags=shortened)

    def log_progress(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the points and hand them to the worker every ``FLUSH_SECONDS``. Infinities and NaN are left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._points.extend(Metric(k, float(v), now, step) for k, v in values.items() if math.isfinite(v))
        idle = self._pending is None or self._pending.done()
        if idle and time.monotonic() - self._last_flush >= FLUSH_SECONDS:
            self._last_flush = time.monotonic()
            self._pending = self._worker.submit(self._safely, "log progress", self._flush)

    def _flush(self) -> None:
        """Write the points; they leave the buffer only once MLflow has them, so that a short outage loses none."""
        batch = list(self._points)
        if batch:
            self._store.client.log_batch(self._id, metrics=batch)
            for _ in range(min(len(batch), len(self._points))):
                self._points.popleft()

    def log_points(self, points: Sequence[tuple[str, int, float]]) -> None:
        """Write the points, in batches."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, step, value in points if math.isfinite(value)]
        for start in range(0, len(metrics), MOST_BUFFERED):
            batch = metrics[start : start + MOST_BUFFERED]
            self._finally("log the metrics", partial(self._store.client.log_batch, self._id, metrics=batch))

    def finish(
        self, status: Status, metrics: Mapping[str, Any], artifacts: Sequence[Path], error: str | None = None
    ) -> None:
        """End the MLflow run; each part is tried even if an earlier one failed."""
        if self._system is not None:
            self._safely("follow the machine", self._system.stop)
        if self._pending is not None:
            self._pending.result()
        self._worker.shutdown(wait=True)
        self._finally("log progress", self._flush)
        self._finally("log the metrics", lambda: self._write_metrics(metrics))
        self._finally("log the dataset", self._write_dataset)
        if error is not None:
            self._finally("log the error", lambda: self._write_tags({ERROR_TAG: error}))
        for path in artifacts:
            if path.is_file():
                self._finally(f"upload {path.name}", partial(self._store.client.log_artifact, self._id, str(path)))
        self._finally("upload a sample of the rows", self._write_sample)
        self._finally("end the run", lambda: self._store.client.set_terminated(self._id, status=status))

    def _write_metrics(self, metrics: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        flat: Mapping[str, float | None] = metrics.get("metrics", {})
        points = [Metric(k, float(v), now, 0) for k, v in flat.items() if v is not None and math.isfinite(v)]
        if points:
            self._store.client.log_batch(self._id, metrics=points)
        device = metrics.get("engine", {}).get("device", {})
        numerics = metrics.get("engine", {}).get("numerics", {})
        required = metrics.get("requirements")
        met = None if not required else str(all(one["met"] for one in required)).lower()
        self._write_tags({"galley.requirements_met": met})
        self._write_tags({f"device.{k}": str(v) for k, v in device.items()})
        self._write_tags({f"numerics.{k}": str(v) for k, v in numerics.items()})

    def _write_dataset(self) -> None:
        """Log the dataset by name and digest, as the run folder's manifest has them."""
        path = self._run.run_dir / "manifest.json"
        if not path.exists():
            return
        dataset = json.loads(path.read_text(encoding="utf-8")).get("dataset") or {}
        digest = str(dataset.get("digest") or "").removeprefix("sha256:")
        if not digest:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=(dataset_name(dataset) or self._run.recipe)[:500],
            digest=digest[:36],  # MLflow's limit; the manifest has the whole digest
            source_type="galley",
            source=json.dumps(dataset, default=str)[:60_000],
        )
        self._store.client.log_inputs(self._id, [DatasetInput(entity, [InputTag("mlflow.data.context", "inference")])])

    def _write_sample(self) -> None:
        """The first rows, to look at in MLflow; all of them stay in the run folder."""
        records = first_records(self._run.run_dir, SAMPLE_ROWS)
        if records:
            self._store.client.log_text(self._id, "".join(f"{record}\n" for record in records), "sample.jsonl")

    def describe(self) -> str:
        """URI, experiment, run and the command that opens the UI."""
        lines = [
            f"MLflow experiment {self._store.experiment!r}, run {self._run.run_id} ({self._id})",
            f"  at {self._store.uri}",
            f"  {mlflow_command(self._store.uri)}",
        ]
        return "\n".join(lines)

    def _finally(self, what: str, action: Callable[[], object]) -> None:
        """Do it, trying again after a second; trouble that stays becomes a warning."""
        for _ in range(ATTEMPTS - 1):
            try:
                action()
                return
            except Exception:
                time.sleep(1.0)
        self._safely(what, action)

    def _safely(self, what: str, action: Callable[[], object]) -> None:
        """Do it; trouble becomes one warning per run, and the rows go on."""
        try:
            action()
        except Exception as error:
            level = logging.DEBUG if self._warned else logging.WARNING
            self._warned = True
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            _log.log(level, "MLflow could not %s (%s); the run goes on, its files are complete", what, first_line)
