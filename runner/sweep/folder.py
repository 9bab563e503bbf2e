"""The folder of a sweep: found again or made anew, held by one process at a time. It holds what is about all jobs:

``sweep.json``     the plan: jobs in their order, written before any of them starts
``jobs/NNN.*``     each job's configuration, state and output
``table.csv``, ``report.md``, ``report.html``   made from the run folders
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.folder_lock import SHORT_HASH, lock_file, new_folder
from runner.job import FOLDER, Job, JobState, read_state, standing_of
from runner.run_outcome import outcome
from runner.sink.atomic import replaced
from runner.sweep.plan import PlannedJob

MANIFEST = "sweep.json"
PREFIX = "sweep-"
SCHEMA = 1


@dataclass(frozen=True)
class Sweep:
    """A sweep as its manifest tells it.

    Args:
        path: its folder, absolute.
        name: of the recipe, or of what its jobs have in common.
        sweep_hash: over what its jobs do, in their order.
        command: what starts or resumes it.
        repeats: counted runs of each variant.
        warmup: runs of each variant that count in nothing.
        search: the section ``sweep.search``, or ``None``.
        experiment: MLflow's, ``None`` without tracking.
        jobs: in their order; a search adds to them.
    """

    path: Path
    name: str
    sweep_hash: str
    command: tuple[str, ...]
    repeats: int
    warmup: int
    search: dict[str, Any] | None
    experiment: str | None
    jobs: tuple[PlannedJob, ...]

    def job(self, planned: PlannedJob, parent_run_id: str | None = None) -> Job:
        """The job as its run knows it."""
        variant = planned.variant
        return Job(
            self.path, planned.number, variant.number, planned.repeat, planned.warmup, variant.settings,
            self.experiment, parent_run_id,
        )  # fmt: skip

    def state(self, planned: PlannedJob) -> JobState:
        """How a job stands. What its run's journal says of its end counts more than the job's own note, which a kill
        in between may have kept from being written."""
        state = read_state(self.job(planned))
        if state.standing == "finished" or state.run_dir is None:
            return state
        end = outcome(state.run_dir)
        if end is None:
            return state
        standing = standing_of(end.exit_code)
        return replace(state, standing=standing, error=end.problem, exit_code=end.exit_code, ended=True)

    def open_jobs(self) -> list[PlannedJob]:
        """The jobs that are not through: never begun, interrupted, or failed before their run's end."""
        return [planned for planned in self.jobs if not self.state(planned).through]

    def with_jobs(self, jobs: list[PlannedJob]) -> Sweep:
        """The same with these jobs."""
        return replace(self, jobs=tuple(jobs))

    def write(self) -> None:
        """Write the manifest durably.

        Raises:
            OSError: the disk is full.
        """
        content = {
            "schema": SCHEMA,
            "name": self.name,
            "sweep_hash": self.sweep_hash,
            "command": list(self.command),
            "repeats": self.repeats,
            "warmup": self.warmup,
            "search": self.search,
            "experiment": self.experiment,
            "jobs": [planned.to_json() for planned in self.jobs],
        }
        with replaced(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_sweep(path: Path) -> bool:
    """Whether this is a sweep's folder."""
    return (path / MANIFEST).is_file()


def read_sweep(path: Path) -> Sweep:
    """A sweep's manifest.

    Raises:
        OSError, ValueError: there is none, or it is damaged.
    """
    data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    data.pop("schema")
    jobs = tuple(PlannedJob.from_json(job) for job in data.pop("jobs"))
    return Sweep(path.absolute(), command=tuple(data.pop("command")), jobs=jobs, **data)


@dataclass(frozen=True)
class SweepFolder:
    """An open sweep folder; the lock ends with the process, however that ends."""

    sweep: Sweep
    lock: int
    resumed: bool

    def close(self) -> None:
        """Give up the lock."""
        os.close(self.lock)


def open_sweep_folder(root: Path, planned: Sweep, resume: str | None) -> SweepFolder:
    """The unfinished sweep of this hash, or a new one; ``planned.path`` is ignored.

    Raises:
        ConfigError: the folder cannot be made, or ``resume`` names no sweep that can be carried on.
    """
    try:
        if resume is not None:
            return _resume(Path(resume), planned)
        return _find(root / planned.name, planned) or _create(root / planned.name, planned)
    except OSError as error:
        where = error.filename or root
        raise ConfigError(f"output_root={str(root)!r}: {where} cannot be written: {error.strerror or error}") from None


def _find(folder: Path, planned: Sweep) -> SweepFolder | None:
    """The latest sweep of this hash that is not through and that no living process holds."""
    for path in sorted(folder.glob(f"{PREFIX}*-{planned.sweep_hash[:SHORT_HASH]}*"), reverse=True):
        if not is_sweep(path) or (lock := lock_file(path / "sweep.lock")) is None:
            continue
        sweep = read_sweep(path)
        if sweep.sweep_hash == planned.sweep_hash and not through(sweep, planned.search):
            return SweepFolder(sweep, lock, True)
        os.close(lock)
    return None


def through(sweep: Sweep, search: dict[str, Any] | None) -> bool:
    """Whether nothing is left to run."""
    told = 0 if sweep.search is None else int(sweep.search.get("told", 0))
    return not sweep.open_jobs() and (search is None or told >= search["trials"])


def _resume(path: Path, planned: Sweep) -> SweepFolder:
    if not is_sweep(path):
        raise ConfigError(f"resume={str(path)!r} is no sweep's folder: there is no {path / MANIFEST}")
    sweep = read_sweep(path)
    if sweep.sweep_hash != planned.sweep_hash:
        raise ConfigError(
            f"resume={str(path)!r} is another sweep, of {len(sweep.jobs)} jobs: {' '.join(sweep.command)}"
        )
    lock = lock_file(path / "sweep.lock")
    if lock is None:
        raise ConfigError(f"resume={str(path)!r} is in use: another process is running it now")
    if through(sweep, planned.search):
        os.close(lock)
        raise ConfigError(f"resume={str(path)!r} is finished: there is nothing to carry on")
    return SweepFolder(sweep, lock, True)


def _create(folder: Path, planned: Sweep) -> SweepFolder:
    path = new_folder(folder, PREFIX, planned.sweep_hash)
    (path / FOLDER).mkdir()
    lock = lock_file(path / "sweep.lock")
    assert lock is not None, "the folder is new, and without a manifest nobody takes it for a sweep"
    sweep = replace(planned, path=path.absolute())
    sweep.write()
    return SweepFolder(sweep, lock, False)
