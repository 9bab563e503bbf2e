"""Everything that a report is made of, read from a run folder's files alone."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from runner.journal import FILE_NAME
from runner.measure.latency import Milliseconds, request_times
from runner.measure.requests_file import RequestsFile
from runner.record_json import from_json

REQUIRED = ("config.yaml", "manifest.json", "metrics.json")
REPLAY_RESULT = "replay.json"
FIRST_OUTPUTS = 5
FIRST_ERRORS = 10


class ReportError(ValueError):
    """The folder holds no finished run; the message names what is missing."""


@dataclass(frozen=True)
class RunFiles:
    """A run folder's content. ``requests``, ``replay`` (what came of the comparison with the run that this one repeats)
    and ``*_count`` are ``None`` where that file is not there."""

    run_dir: Path
    config: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    tracking: dict[str, Any] | None
    replay: dict[str, Any] | None
    requests: RequestsFile | None
    requests_count: int | None
    outputs: list[dict[str, Any]]
    outputs_count: int | None
    errors: list[dict[str, Any]]
    errors_count: int | None

    @property
    def flat(self) -> dict[str, float | int | None]:
        """The metrics by their flat names."""
        values: dict[str, float | int | None] = self.metrics["metrics"]
        return values

    def times(self, name: str) -> Milliseconds:
        """One per-request time of every row that has it, read now; empty without requests.parquet.  # [samples]"""
        if self.requests is None:
            return np.empty(0)
        load = self.metrics.get("load") or {}
        return request_times(self.requests.of_phase(load.get("phase")), name)


def read_run(run_dir: Path) -> RunFiles:
    """Read a run folder; of the rows only the first few, and of requests.parquet nothing but its size.

    Raises:
        ReportError: no such folder, or not a finished run, or a file that is not what its name says.
    """
    missing = [name for name in REQUIRED if not (run_dir / name).is_file()]
    if missing:
        what = "is not a folder" if not run_dir.is_dir() else f"is not a finished run: {', '.join(missing)} missing"
        begun = " (run.log says how it ended, and the same command carries it on)"
        raise ReportError(f"{run_dir} {what}{begun if (run_dir / FILE_NAME).is_file() else ''}")
    config_text = (run_dir / "config.yaml").read_text(encoding="utf-8")
    requests, requests_count = _requests(run_dir / "requests.parquet")
    outputs, outputs_count = _outputs(run_dir)
    errors, errors_count = _lines(run_dir / "errors.jsonl", FIRST_ERRORS)
    tracking, replay = run_dir / "tracking.json", run_dir / REPLAY_RESULT
    return RunFiles(
        run_dir=run_dir,
        config=_yaml(config_text, run_dir / "config.yaml"),
        config_text=config_text,
        manifest=_json(run_dir / "manifest.json"),
        metrics=_metrics(run_dir / "metrics.json"),
        tracking=_json(tracking) if tracking.is_file() else None,
        replay=_json(replay) if replay.is_file() else None,
        requests=requests,
        requests_count=requests_count,
        outputs=outputs,
        outputs_count=outputs_count,
        errors=errors,
        errors_count=errors_count,
    )


def _yaml(text: str, path: Path) -> dict[str, Any]:
    try:
        return _mapping(yaml.safe_load(text), path)
    except yaml.YAMLError as error:
        raise ReportError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")), path)
    except ValueError as error:
        raise ReportError(f"{path} is not valid JSON: {error}") from error


def _metrics(path: Path) -> dict[str, Any]:
    content = _json(path)
    if not isinstance(content.get("metrics"), dict):
        raise ReportError(f"{path} is damaged: it has no mapping under metrics")
    return content


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ReportError(f"{path} does not hold a mapping but {type(content).__name__}")
    return content


def _requests(path: Path) -> tuple[RequestsFile | None, int | None]:
    if not path.is_file():
        return None, None
    requests = RequestsFile(path)
    try:
        return requests, requests.rows()
    except pa.ArrowInvalid as error:
        raise ReportError(f"{path} is not a Parquet file: {error}") from error


def _outputs(run_dir: Path) -> tuple[list[dict[str, Any]], int | None]:
    """The first output rows, from JSON lines if there are any, else from Parquet."""
    if (run_dir / "outputs.jsonl").is_file():
        return _lines(run_dir / "outputs.jsonl", FIRST_OUTPUTS)
    path = run_dir / "outputs.parquet"
    if not path.is_file():
        return [], None
    with pq.ParquetFile(path) as file:
        first: Any = next(file.iter_batches(batch_size=FIRST_OUTPUTS), None)
        return ([] if first is None else first.to_pylist()), file.metadata.num_rows


def _lines(path: Path, most: int) -> tuple[list[dict[str, Any]], int | None]:
    """The first records of a JSON lines file, and how many lines it has; never the whole file in memory."""
    if not path.is_file():
        return [], None
    with path.open("rb") as file:
        try:
            first = [_mapping(from_json(line.decode()), path) for line in itertools.islice(file, most)]
        except ValueError as error:
            raise ReportError(f"{path} has a line that is not valid JSON: {error}") from error
        return first, len(first) + sum(1 for _ in file)
