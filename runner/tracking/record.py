"""Which MLflow run belongs to a run folder: for those who go on with it, and for those who must end it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from runner.tracking.store import client_of
from runner.tracking.tracker import Status

RECORD = "tracking.json"
ERROR_TAG = "galley.error"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MlflowRunRecord:
    """tracking.json in the run folder: which MLflow run a resumed process goes on with."""

    tracking_uri: str
    experiment: str
    experiment_id: str
    mlflow_run_id: str


def end_dead_run(run_dir: Path, status: Status, error: str | None) -> None:
    """End the MLflow run of a run folder whose process died before it could. Trouble becomes a warning."""
    path = run_dir / RECORD
    if not path.exists():
        return
    try:
        record = MlflowRunRecord(**json.loads(path.read_text(encoding="utf-8")))
        client = client_of(record.tracking_uri)
        if error is not None:
            client.set_tag(record.mlflow_run_id, ERROR_TAG, error[:5000])
        client.set_terminated(record.mlflow_run_id, status=status)
    except Exception as trouble:
        _log.warning("MLflow could not be told that %s ended as %s: %s", run_dir, status, trouble)
