"""Runs the command line in processes of its own, on the null engine and without tracking."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NULL = ("engine=null_engine", "tracking=none")
SECONDS = 600  # no gate: a process that hangs ends


def environment() -> dict[str, str]:
    """The tests' own source tree comes first, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}


def start(folder: Path, *words: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """Start ``runner`` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "runner", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def run(folder: Path, *words: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``runner`` in a folder to its end."""
    process = start(folder, *words, before=before)
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run and expect exit code 0."""
    result = run(folder, *words)
    assert result.returncode == 0, result.stderr
    return result


def refused(folder: Path, *words: str, code: int = 2) -> str:
    """Run and expect one message and no traceback; gives back stderr."""
    result = run(folder, *words)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error: ") == 1, result.stderr
    return result.stderr


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """A JSON lines file; text stands as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def articles(folder: Path, count: int) -> Path:
    """``articles.jsonl`` as the recipe ``demo`` wants it."""
    rows = [{"id": f"a{n}", "title": f"Title {n}", "article": f"Text of article {n}."} for n in range(count)]
    return write_rows(folder / "articles.jsonl", rows)


def run_dirs(folder: Path, recipe: str = "demo") -> list[Path]:
    """The run folders, oldest first."""
    return sorted(p for p in (folder / "outputs" / recipe).iterdir() if not p.name.startswith("sweep-"))


def only_sweep(folder: Path, recipe: str = "demo") -> Path:
    """The one sweep folder."""
    (path,) = (folder / "outputs" / recipe).glob("sweep-*")
    return path


def only_run(folder: Path, recipe: str = "demo") -> Path:
    """The one run folder."""
    (path,) = run_dirs(folder, recipe)
    return path


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def durable_rows(folder: Path, recipe: str = "demo") -> int:
    """Rows that are in the journal of the latest run now."""
    for journal in sorted((folder / "outputs" / recipe).glob("*/journal.sqlite"), reverse=True):
        try:
            with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as database:
                return int(database.execute("SELECT COUNT(*) FROM rows").fetchone()[0])
        except sqlite3.Error:  # it is just being made
            return 0
    return 0


def wait_for_rows(process: subprocess.Popen[str], folder: Path, rows: int, recipe: str = "demo") -> None:
    """Wait until so many rows are durable."""
    deadline = time.monotonic() + SECONDS
    while durable_rows(folder, recipe) < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)
