"""The cache folder on disk: converted tokenizers and file digests, safe to share between processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_CHUNK = 1 << 22  # bytes read at a time while hashing


def cache_folder() -> Path:
    """``$GALLEY_CACHE``, else ``$XDG_CACHE_HOME/galley``, else ``~/.cache/galley``; not created here."""
    if named := os.environ.get("GALLEY_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "galley"


def file_digest(path: Path) -> str:
    """sha256 of the file's contents in hex, remembered in the cache folder by path, size and modification time."""
    path = path.resolve()
    status = path.stat()
    key = hashlib.sha256(f"{path}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "digests" / key
    try:
        remembered = note.read_text()
    except OSError:
        remembered = ""
    if len(remembered) == 64:
        return remembered
    digest = _sha256(path)
    _write_note(note, digest)
    return digest


def publish_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Create ``target`` with what ``fill`` writes, all or nothing: other processes see no half-written folder.

    Where two processes build the same folder, the first to finish wins and the other's copy is dropped.

    Raises:
        OSError: the cache folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fill(building)
        building.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write_note(note: Path, text: str) -> None:
    """Best effort: a cache that cannot be written costs time, never a run."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=note.parent)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, note)
    except OSError:
        return
