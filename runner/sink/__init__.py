"""Sinks: views of the journal in the order of the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.config.sections import SinkSection
from runner.journal import Journal
from runner.sink.jsonl import JsonlSink
from runner.sink.parquet import ParquetSink
from runner.sink.requests import write_requests

__all__ = ["ERRORS", "REQUESTS", "live_file", "restore_live", "write_outputs"]

ERRORS = "errors.jsonl"
REQUESTS = "requests.parquet"


def live_file(sinks: Sequence[SinkSection], folder: Path) -> Path | None:
    """The file that grows while rows finish; only JSON lines can."""
    return folder / JsonlSink.file_name if any(sink.kind == "jsonl" for sink in sinks) else None


def restore_live(journal: Journal, live: Path) -> None:
    """Begin the live file anew from what is finished: a killed process may have left half a line."""
    JsonlSink().write(journal.records(errors=False), live)


def write_outputs(journal: Journal, sinks: Sequence[SinkSection], folder: Path) -> list[Path]:
    """Write every sink, the errors and the requests; gives back the files.

    Raises:
        OSError: a file cannot be written; those that were there stay.
    """
    files = []
    for sink in sinks:
        if sink.kind == "jsonl":
            files.append(folder / JsonlSink.file_name)
            JsonlSink().write(journal.records(errors=False), files[-1])
        else:
            files.append(folder / ParquetSink.file_name)
            ParquetSink().write(lambda: journal.records(errors=False), files[-1])
    JsonlSink().write(journal.records(errors=True), folder / ERRORS)
    write_requests(journal.requests(), folder / REQUESTS)
    return [*files, folder / ERRORS, folder / REQUESTS]
