"""Rows per second and memory growth of the runner alone: short rows through the null engine.

    python benchmarks/runner_rows.py [ROWS]

Runs ``runner`` in a process of its own (no tracking, both sinks) on a JSON lines file of ROWS short rows with ids, and
samples that process's resident memory. Rows/s is over the measured phase, from the first row to the last durable one;
growth is from the moment when 10,000 rows are durable to the end of the measured phase, and to the end of the process.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

WARM_ROWS = 10_000
SAMPLE_SECONDS = 0.2


def main() -> None:
    """Run once and print the figures."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
            for index in range(rows):
                stream.write(json.dumps({"id": f"row-{index:07d}", "text": f"short text number {index}"}) + "\n")
        began = time.monotonic()
        samples = _run(folder)
        wall = time.monotonic() - began
        run_dir = next((folder / "outputs" / "rows").iterdir())
        _show(run_dir, rows, samples, wall)


def _run(folder: Path) -> list[tuple[int, float]]:
    """Run the runner; (durable rows, resident MiB) over time."""
    command = [
        *(sys.executable, "-m", "runner", "name=rows", "model.name=none", "engine=null_engine", "tracking=none"),
        *("dataset=jsonl", "dataset.path=rows.jsonl", "dataset.id_column=id", "prompt.template='{{ text }}'"),
        *("sampling.max_tokens=8", "progress=false"),
    ]
    root = str(Path(__file__).resolve().parent.parent)
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.DEVNULL)
    samples = []
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            samples.append((_durable(folder), watched.memory_info().rss / 2**20))
        except psutil.Error:
            break
        time.sleep(SAMPLE_SECONDS)
    if process.wait() != 0:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return samples


def _durable(folder: Path) -> int:
    """Rows in the journal now, as the session counts them."""
    for journal in folder.glob("outputs/rows/*/journal.sqlite"):
        try:
            with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as database:
                found = database.execute("SELECT rows FROM sessions").fetchone()
            return 0 if found is None else int(found[0])
        except sqlite3.Error:  # the schema is being made
            return 0
    return 0


def _show(run_dir: Path, rows: int, samples: list[tuple[int, float]], wall: float) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    lines = sum(1 for _ in (run_dir / "outputs.jsonl").open())
    assert lines == rows == metrics["rows/ok"], (lines, rows, metrics["rows/ok"])
    warm = next((memory for done, memory in samples if done >= WARM_ROWS), samples[-1][1])
    measured = [memory for done, memory in samples if WARM_ROWS <= done < rows] or [warm]
    everything = [memory for done, memory in samples if done >= WARM_ROWS] or [warm]
    print(f"rows                            {rows:,}")
    print(f"measured phase                  {metrics['measured_s']:.1f} s, {rows / metrics['measured_s']:,.0f} rows/s")
    print(f"whole process                   {wall:.1f} s, {rows / wall:,.0f} rows/s")
    print(f"resident after 10,000 rows      {warm:.0f} MiB")
    print(f"growth while rows ran           {max(measured) - warm:.0f} MiB")
    print(f"growth to the process's end     {max(everything) - warm:.0f} MiB (outputs, measurements and report)")


if __name__ == "__main__":
    main()
