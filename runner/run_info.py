"""What a run is, as its folder, its tracker and its report need to know it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.job import Job


@dataclass(frozen=True)
class RunInfo:
    """One run.

    Args:
        recipe: the recipe's name; stacked recipes are joined with ``+``.
        run_id: the run's name under ``outputs/RECIPE/``, a time and the beginning of the configuration hash.
        run_dir: the run's folder, absolute.
        config: the resolved configuration as plain data.
        config_hash: sha256 over what the run does (no paths, no cosmetics) and over the dataset's content.
        command: the command line that starts or resumes this run, one word per entry.
        job: the run's place in a sweep, if it belongs to one.
    """

    recipe: str
    run_id: str
    run_dir: Path
    config: dict[str, Any]
    config_hash: str
    command: list[str]
    job: Job | None = None


@dataclass(frozen=True)
class Session:
    """One process's part in a run; a resumed run has several.

    Args:
        number: counts from 1.
        started_at: when the process began, in seconds since the epoch.
        startup_seconds: from there to the beginning of the measured phase (engine ready); 0 if it never came.
        measured_seconds: from the beginning of the measured phase to its end, or to its last durable row if it was
            killed.
        rows: rows that became durable in this session, errors included.
        status: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``.
    """

    number: int
    started_at: float
    startup_seconds: float
    measured_seconds: float
    rows: int
    status: str
