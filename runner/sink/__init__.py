"""Sinks: views of the journal in the order of the dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from runner.config.schema import Config
from runner.config.sections import SinkSection
from runner.journal import Journal
from runner.sink.hf_dataset import FOLDER, write_hf_dataset
from runner.sink.jsonl import JsonlSink
from runner.sink.openai_batch import BATCH_ERRORS, BATCH_OUTPUT, BatchFormat
from runner.sink.parquet import ParquetSink
from runner.sink.requests import write_requests
from runner.sink.table import write_csv, write_sqlite

__all__ = ["ERRORS", "FILE_NAMES", "REQUESTS", "live_file", "restore_live", "write_outputs"]

ERRORS = "errors.jsonl"
REQUESTS = "requests.parquet"
FILE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "jsonl": JsonlSink.file_name,
        "parquet": ParquetSink.file_name,
        "csv": "outputs.csv",
        "sqlite": "outputs.sqlite",
        "hf_dataset": FOLDER,
        "openai_batch": BATCH_OUTPUT,
    }
)
"""What each kind of sink writes in the run folder."""


def live_file(sinks: Sequence[SinkSection], folder: Path) -> Path | None:
    """The file that grows while rows finish; only JSON lines can."""
    return folder / JsonlSink.file_name if any(sink.kind == "jsonl" for sink in sinks) else None


def restore_live(journal: Journal, live: Path) -> None:
    """Begin the live file anew from what is finished: a killed process may have left half a line."""
    JsonlSink().write(journal.records(errors=False), live)


def write_outputs(journal: Journal, config: Config, folder: Path) -> list[Path]:
    """Write every sink, the errors and the requests; gives back the files.

    Raises:
        OSError: a file cannot be written; those that were there stay.
    """
    files = []
    for sink in config.sinks:
        files += _write(sink.kind, journal, config, folder)
    JsonlSink().write(journal.records(errors=True), folder / ERRORS)
    write_requests(journal.requests(), folder / REQUESTS)
    return [*files, folder / ERRORS, folder / REQUESTS]


def _write(kind: str, journal: Journal, config: Config, folder: Path) -> list[Path]:
    def read(errors: bool = False) -> Sequence[str]:
        return journal.records(errors=errors)  # type: ignore[return-value]

    path = folder / FILE_NAMES[kind]
    if kind == "jsonl":
        JsonlSink().write(read(), path)
    elif kind == "openai_batch":
        form = BatchFormat(config.task.kind, config.model.name)
        JsonlSink().write(map(form.output, read()), path)
        JsonlSink().write(map(form.error, read(errors=True)), folder / BATCH_ERRORS)
        return [path, folder / BATCH_ERRORS]
    elif kind == "hf_dataset":
        return write_hf_dataset(read, path)
    else:
        writers: dict[str, Callable[..., None]] = {
            "parquet": ParquetSink().write,
            "csv": write_csv,
            "sqlite": write_sqlite,
        }
        writers[kind](read, path)
    return [path]
