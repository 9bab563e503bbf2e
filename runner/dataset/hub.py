"""Hugging Face datasets, from a folder written by ``save_to_disk`` or from the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.dataset import HfDataset
from runner.dataset.files import digest
from runner.dataset.rows import Malformed, Record
from runner.errors import ConfigError, listing, nearest


@dataclass(frozen=True)
class HfSource:
    """Reads a memory-mapped or streamed dataset. ``data`` is a ``datasets.Dataset`` or ``IterableDataset``."""

    section: HfDataset
    data: Any
    commit: str | None

    def read(self) -> Iterator[Record | Malformed]:
        """Every row as a record."""
        for columns in self.data:
            yield Record(columns)

    def fingerprint(self) -> str:
        """Of a folder: sha256 of its data files. Of a hub dataset: sha256 of id, name, split and commit."""
        folder = Path(self.section.path)
        if folder.is_dir():
            files = sorted(file for file in folder.rglob("*.arrow"))
            return hashlib.sha256(f"{digest(files)} {self.section.split}".encode()).hexdigest()
        what = [self.section.path, self.section.name, self.section.split, self.commit or self.section.revision]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def count(self) -> int | None:
        """The number of rows if the dataset lies on this disk."""
        return len(self.data) if Path(self.section.path).is_dir() else None

    def describe(self) -> str:
        """Path or id, with the split."""
        return self.section.path + (f" ({self.section.split})" if self.section.split else "")


def open_hf(section: HfDataset) -> HfSource:
    """Open the dataset without reading its rows.

    Raises:
        ConfigError: it is not there, cannot be reached, or ``split`` does not name one of its splits.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigError("dataset=hf needs the package 'datasets': pip install datasets") from None
    datasets.disable_progress_bars()
    folder = Path(section.path).is_dir()
    try:
        if folder:
            found = datasets.load_from_disk(section.path)
        else:
            found = datasets.load_dataset(
                section.path, section.name, split=section.split, revision=section.revision, streaming=True
            )
    except Exception as error:  # whatever the library raises for a wrong name, a missing folder or no network
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"dataset.path={section.path!r} cannot be opened: {first}") from None
    return HfSource(section, _split(found, section), None if folder else _commit(section))


def _split(found: Any, section: HfDataset) -> Any:
    if not hasattr(found, "keys"):
        if section.split is not None and Path(section.path).is_dir() and str(found.split) != section.split:
            raise ConfigError(f"dataset.split={section.split!r}: {section.path} is the split {found.split}")
        return found
    splits = list(found.keys())
    if section.split is None and len(splits) == 1:
        return found[splits[0]]
    if section.split not in splits:
        raise ConfigError(
            f"dataset.split={section.split!r} is not allowed: {section.path} has {listing(splits)}"
            f"{nearest(str(section.split), splits)}"
        )
    return found[section.split]


def _commit(section: HfDataset) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(section.path, revision=section.revision).sha
    except Exception:  # offline with a cached dataset, or a data file's address
        return None
