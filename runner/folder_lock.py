"""Folders that are made anew under a name of their own, and locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

SHORT_HASH = 8  # hex digits of a hash in a folder's name


def new_folder(parent: Path, prefix: str, digest: str) -> Path:
    """Make ``PREFIX TIME - SHORT HASH``, with a number behind it where there is one of that name already."""
    parent.mkdir(parents=True, exist_ok=True)
    base = f"{prefix}{time.strftime('%Y%m%d-%H%M%S')}-{digest[:SHORT_HASH]}"
    path, number = parent / base, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
            path = parent / f"{base}-{number}"


def lock_file(path: Path) -> int | None:
    """A file descriptor that holds a lock; ``None`` if another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
