"""Compiled kernels leave torch's number of threads alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch
from kernels.cpu.numeric import use_threads

torch.set_num_threads({threads})
for work in (1, 1 << 20):
    use_threads(work, 1)
    print(torch.get_num_threads())
"""


def test_a_chosen_number_of_threads_stays() -> None:
    """Numba's pool takes all processors when it starts, for torch too: seen in a fresh process only."""
    threads = (os.cpu_count() or 1) + 1
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(threads=threads)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(threads)] * 2
