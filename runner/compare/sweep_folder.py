"""The runs that a sweep's folder names."""

from __future__ import annotations

import json
from pathlib import Path

from runner.errors import ConfigError

MANIFEST = "sweep.json"
STATE = "jobs/{number:03d}.state.json"


def is_sweep(folder: Path) -> bool:
    """Whether this is a sweep's folder."""
    return (folder / MANIFEST).is_file()


def sweep_runs(folder: Path) -> tuple[list[Path], list[Path]]:
    """The run folders of a sweep's jobs in their order, and apart from them those of its warm-ups. A job that never
    began has none.

    Raises:
        ConfigError: the manifest or a job's state is damaged.
    """
    counted: list[Path] = []
    warmups: list[Path] = []
    try:
        for job in json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["jobs"]:
            state = folder / STATE.format(number=int(job["number"]))
            where = json.loads(state.read_text(encoding="utf-8"))["run_dir"] if state.is_file() else None
            if where is not None and (run := folder / where).is_dir():
                (warmups if job["warmup"] else counted).append(run)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is no sweep that can be read: {type(error).__name__}: {error}") from None
    return counted, warmups
