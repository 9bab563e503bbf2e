"""Text files: a row for each file, line or paragraph."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.dataset.files import find_files, lines
from runner.dataset.rows import Malformed, Record
from runner.errors import ConfigError

Unit = Literal["file", "line", "paragraph"]


@dataclass(frozen=True)
class TextSource:
    """Reads UTF-8 texts into the columns ``text`` and ``path``; empty lines and paragraphs are skipped.

    A row's id is the path below ``root``, with ``:LINE`` for lines and ``:NUMBER`` for paragraphs.
    """

    root: Path
    files: tuple[Path, ...]
    unit: Unit

    def read(self) -> Iterator[Record | Malformed]:
        """Every text as a record, in the order of the files' names."""
        for file in self.files:
            name = self._name(file)
            if self.unit == "line":
                yield from _lines(file, name)
            else:
                yield from _texts(file, name, self.unit)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def fingerprint(self) -> str:
        """sha256 over names below the root and contents: both decide the records."""
        total = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                total.update(self._name(file).encode(errors="surrogateescape") + b"\0")
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    def count(self) -> int | None:
        """The number of files; unknown for lines and paragraphs."""
        return len(self.files) if self.unit == "file" else None

    def describe(self) -> str:
        """The folder and the number of files."""
        return f"{self.root} ({len(self.files)} files)"


def open_text(path: str, pattern: str, unit: Unit) -> TextSource:
    """The texts of a folder (files that match ``pattern`` at any depth), of a file or of a glob.

    Raises:
        ConfigError: nothing is there.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        files = find_files(path)
        root = files[0].parent if len(files) == 1 else _common_root(files)
        return TextSource(root, tuple(files), unit)
    found = sorted(file for file in folder.rglob(pattern) if file.is_file())
    if not found:
        raise ConfigError(f"dataset.path={path!r} holds no file that matches dataset.pattern={pattern!r}")
    return TextSource(folder, tuple(found), unit)


def _common_root(files: list[Path]) -> Path:
    root = files[0].parent
    while not all(file.is_relative_to(root) for file in files):
        root = root.parent
    return root


def _lines(file: Path, name: str) -> Iterator[Record | Malformed]:
    for number, line in lines(file):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield Record({"text": line.decode(), "path": name}, f"{name}:{number}")
        except UnicodeDecodeError as error:
            yield Malformed(f"{file} line {number} is not UTF-8: {error.reason} at byte {error.start}")


def _texts(file: Path, name: str, unit: Unit) -> Iterator[Record | Malformed]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        yield Malformed(f"{file} is not UTF-8: {error.reason} at byte {error.start}")
        return
    except OSError as error:
        yield Malformed(f"{file} cannot be read: {error.strerror}")
        return
    if unit == "file":
        yield Record({"text": text, "path": name}, name)
        return
    paragraphs = (part.strip() for part in re.split(r"\n\s*\n", text))
    for number, paragraph in enumerate(filter(None, paragraphs), 1):
        yield Record({"text": paragraph, "path": name}, f"{name}:{number}")
