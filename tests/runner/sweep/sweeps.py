"""Small sweeps on the null engine, run by the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.job import JobState
from runner.run_outcome import finished_rows
from runner.sweep.folder import Sweep, read_sweep
from tests.runner.launch import NULL, only_sweep

WAIT_SECONDS = 180

QUICK = ("-m", "+recipe=demo", *NULL, "dataset.path=articles.jsonl", "dataset.limit=null", "sampling.max_tokens=8")
SLOW = (*QUICK, "engine.seconds_per_step=0.02", "engine.max_num_seqs=4")


def sweep_in(folder: Path, recipe: str = "demo") -> Sweep:
    """The one sweep under a folder."""
    return read_sweep(only_sweep(folder, recipe))


def states(sweep: Sweep) -> list[JobState]:
    """Every job's state."""
    return [sweep.state(planned) for planned in sweep.jobs]


def table(sweep: Sweep) -> list[dict[str, str]]:
    """The lines of table.csv."""
    with (sweep.path / "table.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def started_order(sweep: Sweep) -> list[int]:
    """Job numbers in the order in which they began."""
    begun = [
        (state.started_at or 0.0, planned.number) for planned, state in zip(sweep.jobs, states(sweep), strict=True)
    ]
    return [number for _, number in sorted(begun)]


def wait_for(process: subprocess.Popen[str], folder: Path, reached: Callable[[Sweep], bool]) -> Sweep:
    """Wait until a sweep that runs has come so far."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the sweep does not get on"
        found = list((folder / "outputs").glob("*/sweep-*/sweep.json"))
        if found and reached(sweep := read_sweep(found[0].parent)):
            return sweep
        time.sleep(0.05)


def rows_of(sweep: Sweep, number: int) -> int:
    """Durable rows of a job."""
    run_dir = sweep.state(sweep.jobs[number - 1]).run_dir
    return 0 if run_dir is None else finished_rows(run_dir)


def outputs(sweep: Sweep) -> list[bytes]:
    """outputs.jsonl of every job."""
    found = []
    for state in states(sweep):
        assert state.run_dir is not None
        found.append((state.run_dir / "outputs.jsonl").read_bytes())
    return found


def metrics(state: JobState) -> dict[str, Any]:
    """metrics.json's flat metrics of a job's run."""
    assert state.run_dir is not None
    content: dict[str, Any] = json.loads((state.run_dir / "metrics.json").read_text())["metrics"]
    return content
