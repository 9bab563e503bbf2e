"""Memory does not grow with the rows: not while they run, and not when outputs, measurements and report are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.runner_rows import measure

# 100 MB for a million rows, the runner's promise, is 100 bytes a row. One float64 column more that is held as a whole
# takes 8 of them; the table of requests takes over 150, the records over 500.
BYTES_PER_ROW = 100
FEW, MANY = 20_000, 100_000


@pytest.mark.parametrize("load", ["load=offline", "load=concurrency"])
def test_growth_to_the_end_of_the_process_does_not_depend_on_the_rows(tmp_path: Path, load: str) -> None:
    growth = {}
    for rows in (FEW, MANY):
        folder = tmp_path / str(rows)
        folder.mkdir()
        growth[rows] = measure(folder, rows, "none", load).growth_mib
    assert growth[MANY] < 100e6 / 2**20
    assert (growth[MANY] - growth[FEW]) * 2**20 < BYTES_PER_ROW * (MANY - FEW), growth
