"""The folder of a run: found again, or made anew, and held by one process at a time."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.folder_lock import SHORT_HASH, lock_file, new_folder
from runner.journal import FILE_NAME, Journal

LOCK_NAME = "run.lock"


@dataclass(frozen=True)
class RunFolder:
    """An open run folder. ``lock`` is the file descriptor whose lock ends with the process, however that ends."""

    path: Path
    journal: Journal
    lock: int
    resumed: bool

    def close(self) -> None:
        """Close the journal and give up the lock."""
        self.journal.close()
        os.close(self.lock)


def open_run_folder(
    root: Path, name: str, config_hash: str, identity: dict[str, Any], resume: str | None, job: str | None = None
) -> RunFolder:
    """The unfinished run of this configuration, or a new one.

    Args:
        root: ``output_root``.
        name: the recipe's name.
        config_hash: decides which run is the same.
        identity: what the hash is made of, kept to explain differences.
        resume: the folder to carry on, if the user named one.
        job: which job of which sweep this is; an unfinished run of another job, or of none, is not carried on.

    Raises:
        ConfigError: the folder cannot be made or written, or ``resume`` names no run that can be carried on.
    """
    try:
        if resume is not None:
            return _resume(Path(resume), config_hash, identity)
        return _find(root / name, config_hash, job) or _create(root / name, config_hash, identity, job)
    except OSError as error:
        where = error.filename or root
        raise ConfigError(f"output_root={str(root)!r}: {where} cannot be written: {error.strerror or error}") from None
    except sqlite3.Error as error:
        raise ConfigError(f"output_root={str(root)!r}: the journal cannot be opened: {error}") from None


def _find(folder: Path, config_hash: str, job: str | None) -> RunFolder | None:
    """The latest unfinished run of this hash and this job that no living process holds."""
    for path in sorted(folder.glob(f"*-{config_hash[:SHORT_HASH]}*"), reverse=True):
        if (path / FILE_NAME).is_file() and (lock := lock_file(path / LOCK_NAME)) is not None:
            journal = Journal(path / FILE_NAME)
            same = journal.get("config_hash") == config_hash and journal.get("job") == job
            if same and journal.get("state") == "running":
                return RunFolder(path.absolute(), journal, lock, True)
            journal.close()
            os.close(lock)
    return None


def _resume(path: Path, config_hash: str, identity: dict[str, Any]) -> RunFolder:
    if not (path / FILE_NAME).is_file():
        raise ConfigError(f"resume={str(path)!r} is no run folder: there is no {path / FILE_NAME}")
    lock = lock_file(path / LOCK_NAME)
    if lock is None:
        raise ConfigError(f"resume={str(path)!r} is in use: another process is running it now")
    journal = Journal(path / FILE_NAME)
    if journal.get("state") == "finished":
        raise ConfigError(f"resume={str(path)!r} is finished: there is nothing to carry on")
    if journal.get("config_hash") != config_hash:
        differences = _differences("", journal.get("identity") or {}, identity)
        raise ConfigError(f"resume={str(path)!r} is the run of another configuration:\n" + "\n".join(differences))
    return RunFolder(path.absolute(), journal, lock, True)


def _create(folder: Path, config_hash: str, identity: dict[str, Any], job: str | None) -> RunFolder:
    path = new_folder(folder, "", config_hash)
    lock = lock_file(path / LOCK_NAME)
    if lock is None:  # another process found the new folder first; it will let go, for there is no journal yet
        return _create(folder, config_hash, identity, job)
    journal = Journal(path / FILE_NAME)
    journal.set(config_hash=config_hash, identity=identity, state="running", job=job)
    return RunFolder(path.absolute(), journal, lock, False)


def _differences(key: str, there: Any, here: Any) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        names = sorted(there.keys() | here.keys())
        return [
            line
            for name in names
            if there.get(name) != here.get(name)
            for line in _differences(f"{key}.{name}" if key else name, there.get(name), here.get(name))
        ]
    return [f"  {key}: {there!r} there, {here!r} now"]
