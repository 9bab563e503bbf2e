"""Memory does not grow with the rows: not while they run, and not when outputs, measurements and report are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.runner_rows import measure

# 100 MB for a million rows, the runner's promise, is 100 bytes a row. One float64 column more that is held as a whole
# takes 8 of them; the table of requests takes over 150, the records over 500.
BYTES_PER_ROW = 100
FEW, MANY = 20_000, 100_000
# The allocator's peaks move by several MiB from process to process, on a busy machine more: rows that are held are held
# in every try.
TRIES = 3


@pytest.mark.parametrize("load", ["load=offline", "load=concurrency"])
def test_growth_to_the_end_of_the_process_does_not_depend_on_the_rows(tmp_path: Path, load: str) -> None:
    found = []
    for attempt in range(TRIES):
        few, many = (growth(tmp_path / f"{attempt}-{rows}", rows, load) for rows in (FEW, MANY))
        assert many < 100e6
        found.append((many - few) / (MANY - FEW))
        if found[-1] < BYTES_PER_ROW:
            return
    pytest.fail(f"{load}: a row more takes {found} bytes more, tried {TRIES} times; at most {BYTES_PER_ROW} is allowed")


def growth(folder: Path, rows: int, load: str) -> float:
    """Bytes that a run of so many rows adds to its process."""
    folder.mkdir()
    return measure(folder, rows, "none", load).growth_mib * 2**20
