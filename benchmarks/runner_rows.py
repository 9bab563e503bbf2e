"""Rows per second and memory growth of the runner alone: short rows through the null engine.

    python benchmarks/runner_rows.py [ROWS] [--tracking none|mlflow]

Runs ``runner`` in a process of its own (both sinks) on a JSON lines file of ROWS short rows with ids, and watches that
process's resident memory. Rows/s is over the measured phase, from the first row to the last durable one, and over the
whole process with start-up, outputs and report. Growth counts from the moment when 10,000 rows are durable. While rows
run, resident memory is sampled; to the process's end it is the kernel's own peak (VmHWM: Linux), which no sample can
miss. (``ru_maxrss`` would not do: it holds what the launching process had at the fork.)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WARM_ROWS = 10_000
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Figures:
    """What one run showed; memory is resident, in MiB."""

    rows: int
    measured_s: float
    whole_s: float
    warm_mib: float
    running_peak_mib: float
    end_peak_mib: float

    @property
    def growth_mib(self) -> float:
        """From 10,000 rows to the highest point before the process's end."""
        return self.end_peak_mib - self.warm_mib


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--tracking", choices=("none", "mlflow"), default="none")
    options = parser.parse_args()
    if options.rows <= WARM_ROWS:
        parser.error(f"rows must be above {WARM_ROWS}, where growth begins to count")
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), options.rows, options.tracking)
    print(f"rows                            {found.rows:,} (tracking={options.tracking})")
    print(f"measured phase                  {found.measured_s:.1f} s, {found.rows / found.measured_s:,.0f} rows/s")
    print(f"whole process                   {found.whole_s:.1f} s, {found.rows / found.whole_s:,.0f} rows/s")
    print(f"resident at 10,000 rows         {found.warm_mib:.0f} MiB")
    print(f"peak while rows ran             {found.running_peak_mib:.0f} MiB")
    print(f"peak until the process's end    {found.end_peak_mib:.0f} MiB (with outputs, measurements and report)")
    print(f"growth while rows ran           {found.running_peak_mib - found.warm_mib:.0f} MiB")
    print(f"growth to the process's end     {found.growth_mib:.0f} MiB")


def measure(folder: Path, rows: int, tracking: str = "none", *words: str) -> Figures:
    """Run so many rows in an empty folder; ``words`` go on the command line.

    Raises:
        RuntimeError: the run failed, or its files do not hold exactly the rows that went in.
    """
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for index in range(rows):
            stream.write(json.dumps({"id": f"row-{index:07d}", "text": f"short text number {index}"}) + "\n")
    began = time.monotonic()
    samples, end_peak = _run(folder, tracking, words)
    wall = time.monotonic() - began
    run_dir = next((folder / "outputs" / "rows").iterdir())
    metrics = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    with (run_dir / "outputs.jsonl").open("rb") as stream:
        lines = sum(1 for _ in stream)
    if not lines == rows == metrics["rows/ok"]:
        raise RuntimeError(f"{rows} rows went in, outputs.jsonl has {lines}, metrics.json says {metrics['rows/ok']}")
    warm = [memory for done, memory in samples if done >= WARM_ROWS]
    running = [memory for done, memory in samples if WARM_ROWS <= done < rows]
    if not warm:
        raise RuntimeError("the run was over before a sample was taken")
    return Figures(rows, metrics["measured_s"], wall, warm[0], max(running or warm[:1]), end_peak)


def _run(folder: Path, tracking: str, words: Sequence[str]) -> tuple[list[tuple[int, float]], float]:
    """Run the runner; (durable rows, resident MiB) over time, and the process's peak in MiB."""
    command = [
        *(sys.executable, "-m", "runner", "name=rows", "model.name=none", "engine=null_engine", f"tracking={tracking}"),
        *("dataset=jsonl", "dataset.path=rows.jsonl", "dataset.id_column=id", "prompt.template='{{ text }}'"),
        *("sampling.max_tokens=8", "progress=false", *words),
    ]
    root = str(Path(__file__).resolve().parent.parent)
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.DEVNULL)
    samples, peak = [], 0.0
    while process.poll() is None:
        rows, memory = _durable(folder), _memory(process.pid)
        if memory is not None:
            samples.append((rows, memory[0]))
            peak = max(peak, memory[1])
        time.sleep(SAMPLE_SECONDS)
    if process.returncode != 0:
        raise RuntimeError(f"the run failed with exit code {process.returncode}")
    return samples, peak


def _memory(pid: int) -> tuple[float, float] | None:
    """A process's resident memory now and its peak since it began, in MiB; ``None`` once it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = {name: int(size) for name, size in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, flags=re.MULTILINE)}
    return (found["VmRSS"] / 1024, found["VmHWM"] / 1024) if len(found) == 2 else None


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


if __name__ == "__main__":
    main()
