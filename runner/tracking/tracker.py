"""What the run loop sees of experiment tracking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from runner.run_info import RunInfo

KINDS = ("mlflow", "none")
Status = Literal["FINISHED", "FAILED", "KILLED"]


class TrackingError(ValueError):
    """Tracking cannot start: wrong kind, wrong URI or unreachable server. The message says what to change."""


class Tracker(Protocol):
    """Follows one run or one sweep. After it is open, no method raises: tracking trouble must never cost a row."""

    @property
    def tracked_id(self) -> str | None:
        """MLflow's id of the run, ``None`` without tracking."""

    def log_progress(self, step: int, values: Mapping[str, float]) -> None:
        """Points of time series; ``step`` is the number of finished rows or any other rising count. Does not block."""

    def log_points(self, points: Sequence[tuple[str, int, float]]) -> None:
        """Points (name, step, value) that are known at once."""

    def finish(
        self, status: Status, metrics: Mapping[str, Any], artifacts: Sequence[Path], error: str | None = None
    ) -> None:
        """End the run. ``metrics`` is the content of metrics.json, empty if there is none; missing artifacts are
        skipped; ``error`` says why it failed."""

    def describe(self) -> str:
        """Where the run can be looked at, and the command that shows it."""


class NoTracker:
    """Tracks nothing."""

    tracked_id: str | None = None

    def log_progress(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def log_points(self, points: Sequence[tuple[str, int, float]]) -> None:
        """Does nothing."""

    def finish(
        self, status: Status, metrics: Mapping[str, Any], artifacts: Sequence[Path], error: str | None = None
    ) -> None:
        """Does nothing."""

    def describe(self) -> str:
        """Says that tracking is off."""
        return "tracking is off (tracking=none)"


def open_tracker(
    kind: str,
    run: RunInfo,
    *,
    tracking_uri: str | None,
    experiment: str | None,
    output_root: Path,
    system_metrics: bool = False,
) -> Tracker:
    """Start to track a run, or go on with the tracked run of a resumed run folder.

    Args:
        kind: ``mlflow`` or ``none``.
        run: the run; the MLflow run has its id as its name.
        tracking_uri: an MLflow tracking URI; ``None`` is ``OUTPUT_ROOT/mlflow.db`` (SQLite).
        experiment: the MLflow experiment; ``None`` is the recipe's name.
        output_root: where the default database and its artifacts lie.
        system_metrics: follow the machine's processors, memory, disks, network and GPUs, as MLflow itself does.

    Raises:
        TrackingError: unknown kind, or MLflow cannot be reached at that URI.
    """
    if kind == "none":
        return NoTracker()
    if kind != "mlflow":
        raise TrackingError(f"tracking.kind={kind!r} is not allowed: it must be one of {', '.join(KINDS)}")
    from runner.tracking.mlflow_run import open_mlflow_run

    return open_mlflow_run(run, tracking_uri, experiment or run.recipe, output_root.absolute(), system_metrics)
