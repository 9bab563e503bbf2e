"""A folder that ``datasets.load_from_disk`` reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from runner.sink.parquet import ParquetSink

FOLDER = "outputs_hf"


def write_hf_dataset(read: Callable[[], Iterable[str]], folder: Path) -> list[Path]:
    """Write all records (JSON texts, read twice) in their order, or leave the folder as it was; gives back its files.

    The library makes the folder from a Parquet file, memory-mapped, so that no table is held as a whole.

    Raises:
        OSError: the disk is full, or the package ``datasets`` is missing.
    """
    import datasets

    datasets.disable_progress_bars()
    work = folder.with_name(folder.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        ParquetSink().write(read, work / "outputs.parquet")
        table = datasets.Dataset.from_parquet(str(work / "outputs.parquet"), cache_dir=str(work / "cache"))
        table.save_to_disk(str(work / "saved"))
        del table
        shutil.rmtree(folder, ignore_errors=True)
        (work / "saved").rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return sorted(file for file in folder.iterdir() if file.suffix == ".arrow")
