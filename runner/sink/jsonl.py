"""JSON lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from runner.sink.atomic import replaced


class JsonlSink:
    """One record per line, UTF-8."""

    file_name = "outputs.jsonl"

    def write(self, records: Iterable[str], path: Path) -> None:
        """Write all records (JSON texts) in their order, or leave the file as it was."""
        with replaced(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for record in records:
                stream.write(record + "\n")
