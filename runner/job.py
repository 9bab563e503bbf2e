"""A run's place in a sweep, and the note that tells everybody else how it stands.

A job is one composed configuration with a repeat number. Its process alone writes its state while it lives, whichever
launcher started it; what a sweep knows of its jobs it reads from these files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runner.errors import ConfigError, RequirementError
from runner.sink.atomic import replaced

FOLDER = "jobs"  # in the sweep's folder: NNN.json, NNN.state.json, NNN.log, NNN.lock
Standing = Literal["planned", "running", "finished", "failed", "killed"]
UNMET = RequirementError.exit_code


@dataclass(frozen=True)
class Job:
    """What a run needs to know of the sweep that it belongs to.

    Args:
        sweep_dir: the sweep's folder, absolute.
        number: the job's place in the sweep, from 1.
        variant: which configuration, from 1; repeats share it.
        repeat: which repeat of it, from 1; warm-ups count by themselves.
        warmup: run to warm the machine up, and left out of every statistic.
        settings: what sets the variant apart, key to value.
        experiment: the MLflow experiment of the whole sweep, if it is tracked.
        parent_run_id: the sweep's MLflow run, if it is tracked.
    """

    sweep_dir: Path
    number: int
    variant: int
    repeat: int
    warmup: bool
    settings: Mapping[str, str] = field(default_factory=dict)
    experiment: str | None = None
    parent_run_id: str | None = None

    @property
    def token(self) -> str:
        """Names the job in its run's journal, so that two repeats of one configuration never share a run folder."""
        return f"{self.sweep_dir.name}/{self.number:03d}"

    def file(self, ending: str) -> Path:
        """One of the job's files, such as ``json`` or ``state.json``."""
        return self.sweep_dir / FOLDER / f"{self.number:03d}.{ending}"

    def tags(self) -> dict[str, str | None]:
        """MLflow's tags: the parent as MLflow's UI nests by it, and the job's place."""
        return {
            "mlflow.parentRunId": self.parent_run_id,
            "galley.sweep": self.sweep_dir.name,
            "galley.job": str(self.number),
            "galley.variant": str(self.variant),
            "galley.repeat": str(self.repeat),
            "galley.warmup": str(self.warmup).lower(),
            **{f"galley.set.{key.lstrip('+')}": value for key, value in self.settings.items()},
        }


@dataclass(frozen=True)
class JobState:
    """How a job stands.

    Args:
        standing: ``failed`` also where its process died.
        run_dir: its run's folder, once there is one.
        error: why it failed, or which requirement it does not meet; readable.
        exit_code: as the command line would have given it.
        died: its process ended without a word, so that nobody has told MLflow.
        starts: how many processes have worked on it.
        pid: the process that works on it, on ``host``.
        ended: its run came to its end, also where it failed there (too many rows in error).
    """

    standing: Standing = "planned"
    run_dir: Path | None = None
    error: str | None = None
    exit_code: int | None = None
    died: bool = False
    starts: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    pid: int | None = None
    host: str | None = None
    ended: bool = False

    @property
    def through(self) -> bool:
        """Whether running it again would change nothing: its run came to its end."""
        return self.standing == "finished" or self.ended


def standing_of(exit_code: int) -> Standing:
    """How a job stands whose process ended with this code. One that does not meet its requirements has measured all
    there is to measure: it is finished, and its error says what it lacks."""
    if exit_code in (0, UNMET):
        return "finished"
    return "killed" if exit_code > 128 else "failed"


def read_state(job: Job) -> JobState:
    """The job's state as it was last noted; ``planned`` if nothing was.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        data: dict[str, Any] = json.loads(job.file("state.json").read_text(encoding="utf-8"))
        run_dir = data.pop("run_dir")
        # relative to the sweep's folder, so that the outputs may be moved
        where = None if run_dir is None else Path(os.path.normpath(job.sweep_dir / run_dir))
        return JobState(**data, run_dir=where)
    except FileNotFoundError:
        return JobState()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{job.file('state.json')} is damaged: {type(error).__name__}: {error}") from None


def write_state(job: Job, state: JobState) -> None:
    """Note the state durably.

    Raises:
        OSError: the disk is full.
    """
    data = dataclasses.asdict(state)
    if state.run_dir is not None:
        data["run_dir"] = os.path.relpath(state.run_dir, job.sweep_dir)
    with replaced(job.file("state.json")) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def note_started(job: Job) -> None:
    """This process begins to work on the job."""
    before = read_state(job)
    here = JobState(
        "running", before.run_dir, starts=before.starts + 1, started_at=time.time(), pid=os.getpid(),
        host=socket.gethostname(),
    )  # fmt: skip
    write_state(job, here)


def note_run(job: Job, run_dir: Path) -> None:
    """The job's run has this folder, and no row yet."""
    write_state(job, dataclasses.replace(read_state(job), run_dir=run_dir))


def note_end(job: Job, standing: Standing, exit_code: int, error: str | None = None, died: bool = False) -> None:
    """The job's process is through with it."""
    after = dataclasses.replace(
        read_state(job), standing=standing, exit_code=exit_code, error=error, died=died, ended_at=time.time(), pid=None
    )
    write_state(job, after)
