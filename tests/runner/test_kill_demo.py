"""The demo, with the real model, killed at twenty random moments."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

from tests.runner.launch import run_dirs, start, succeed

KILLS = 20
DEMO = ("+recipe=demo", "sampling.max_tokens=20", "tracking=none")
LONGEST = 9.0  # seconds until a kill: from the import of Python to the end of the run on a small machine


def test_killed_twenty_times_the_rows_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir()
    stormy.mkdir()
    succeed(calm, *DEMO)
    expected = (run_dirs(calm)[0] / "outputs.jsonl").read_bytes()
    assert len({json.loads(line)["id"] for line in expected.splitlines()}) == 24
    moments, kills, resumed = random.Random(20), 0, 0
    while kills < KILLS:
        process = start(stormy, *DEMO)
        try:
            _, err = process.communicate(timeout=moments.uniform(0.5, LONGEST))
            assert process.returncode == 0, err
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
            kills += 1
        resumed += "resuming" in err
    assert resumed >= 5  # most kills hit a run that had begun
    succeed(stormy, *DEMO)
    for folder in run_dirs(stormy):  # a run that was finished is not resumed: the next one starts anew
        assert (folder / "outputs.jsonl").read_bytes() == expected
