"""Finding the files of a dataset, reading their lines, and their digest."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.errors import ConfigError, nearest
from runner.recipes import BUILT_IN

BUILT_IN_PREFIX = "builtin:"
_PACKED = {
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"PK\x03\x04": "unzip",
    b"\xfd7zXZ": "unxz",
    b"BZh91AY&SY": "bunzip2",
}
"""How compressed files begin, and what unpacks them."""


def find_files(path: str, key: str = "dataset.path") -> list[Path]:
    """The files that a path means: one file, a glob's files by name, or a file of the built-in data.

    Args:
        path: with ``builtin:`` at its beginning for the built-in data.
        key: where it stands in the configuration, for messages.

    Raises:
        ConfigError: nothing is there, a folder, or a compressed file.
    """
    path = os.path.expanduser(path)  # shells leave the ~ of key=~/file as it is
    if path.startswith(BUILT_IN_PREFIX):
        return [_existing(BUILT_IN / "data" / path.removeprefix(BUILT_IN_PREFIX), path, key)]
    if glob.has_magic(path) and not Path(path).exists():
        found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]
        files = [_existing(file, str(file), key) for file in found if file.is_file()]
        if not files:
            raise ConfigError(f"{key}={path!r} matches no file (looked from {Path.cwd()})")
        return files
    return [_existing(Path(path), path, key)]


def _existing(file: Path, path: str, key: str) -> Path:
    if file.is_dir():
        raise ConfigError(f"{key}={path!r} is a folder: it must be a file or a glob such as {path.rstrip('/')}/*")
    if not file.is_file():
        siblings = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise ConfigError(f"{key}={path!r}: there is no file {file.absolute()}{nearest(file.name, siblings)}")
    try:
        with file.open("rb") as stream:
            begin = stream.read(max(map(len, _PACKED)))
    except OSError as error:
        raise ConfigError(f"{key}={path!r} cannot be read: {error.strerror}") from None
    packed = next((program for magic, program in _PACKED.items() if begin.startswith(magic)), None)
    if packed is not None:
        raise ConfigError(f"{key}={path!r} is a compressed file, which is not read as it is: unpack it with {packed}")
    return file


def lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Line number from 1 and line without its end, of every line."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            yield number, line.rstrip(b"\r\n")


def digest(files: Sequence[Path]) -> str:
    """sha256 (hex) over the files' digests in their order; the names do not count."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def count_lines(files: Sequence[Path]) -> int:
    """How many lines the files have, read in pieces."""
    total = 0
    for file in files:
        with file.open("rb") as stream:
            last = b"\n"
            while piece := stream.read(1 << 20):
                total += piece.count(b"\n")
                last = piece
            total += not last.endswith(b"\n")
    return total
