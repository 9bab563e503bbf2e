"""How often `runner compare` finds a difference between equal sets of repeats, and a planted slowdown: real runs of the
null engine, interleaved, each in a folder of its own.

    python benchmarks/compare_calibration.py                     # 20 comparisons of 5 repeats, 5 of 10 with 5% more
    python benchmarks/compare_calibration.py --equal 40 --repeats 10
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

from runner.cli import main as runner
from runner.compare.comparison import Comparison, compare, overall
from runner.compare.run_set import open_sets

SECONDS = 0.003  # of a step; a run takes about half a second. Shorter ones are mostly noise on a busy machine


def main() -> None:
    """Run, compare and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--equal", type=int, default=20, help="comparisons of equal sets")
    parser.add_argument("--slower", type=int, default=5, help="comparisons with a planted slowdown")
    parser.add_argument("--repeats", type=int, default=5, help="of equal sets")
    parser.add_argument("--slowdown", type=float, default=0.05, help="of the engine's steps, found with 10 repeats")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        equal = [_compared(root / f"equal{n}", options.repeats, 1.0) for n in range(options.equal)]
        slower = [_compared(root / f"slower{n}", 10, 1 + options.slowdown) for n in range(options.slower)]
    none = sum(overall(found.timings) == "no difference" for found in equal)
    found = sum(one.timings[0].verdict == "worse" for one in slower)
    print(f"equal sets of {options.repeats} repeats: no difference in {none} of {len(equal)}")
    worse = sum(overall(one.timings) == "worse" for one in slower)
    print(f"{options.slowdown:.0%} longer steps, 10 repeats: worse in {worse} of {len(slower)}, throughput in {found}")


def _compared(root: Path, repeats: int, factor: float) -> Comparison:
    for _ in range(repeats):
        _run(root / "a", SECONDS)
        _run(root / "b", SECONDS * factor)
    found = compare(*open_sets([str(root / "a"), str(root / "b")]))
    line = found.timings[0]
    assert line.difference is not None
    low, high = (line.share(value) or 0.0 for value in (line.difference.low, line.difference.high))
    print(f"{root.name}: {overall(found.timings)}; {line.name} {low:+.1%} to {high:+.1%}, {line.verdict}", flush=True)
    return found


def _run(folder: Path, seconds: float) -> None:
    words = ["+recipe=demo", "engine=null_engine", f"engine.seconds_per_step={seconds}", f"output_root={folder}"]
    quiet = ["tracking=none", "progress=false", "measure.roofline=false"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = runner([*words, *quiet])
    assert code == 0, errors.getvalue()


if __name__ == "__main__":
    main()
