"""The demo, with the real model, killed at twenty random moments."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import time
from pathlib import Path

from tests.runner.launch import run_dirs, start, succeed

KILLS = 20
SHORTEST = 0.5  # seconds until a kill: Python's own start
# The demo's model and rows, but the articles' beginnings, few tokens, and four rows at a time: all 24 in one batch
# would finish together in the last moments, and no kill could fall between rows.
DEMO = ("+recipe=demo", "sampling.max_tokens=8", "engine.max_num_seqs=4", "tracking=none",
        "prompt.user='{{ article[:300] }} Summarize the text above.'")  # fmt: skip


def test_killed_twenty_times_the_rows_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir()
    stormy.mkdir()
    began = time.monotonic()
    succeed(calm, *DEMO)
    longest = time.monotonic() - began  # kills spread over all of a run, however fast the machine is
    expected = (run_dirs(calm)[0] / "outputs.jsonl").read_bytes()
    assert len({json.loads(line)["id"] for line in expected.splitlines()}) == 24
    moments, kills, resumed = random.Random(20), 0, 0
    while kills < KILLS:
        began = time.monotonic()
        process = start(stormy, *DEMO)
        try:
            _, err = process.communicate(timeout=moments.uniform(SHORTEST, longest))
            assert process.returncode == 0, err
            if "resuming" not in err:  # the first run read everything from a cold disk: this one tells more
                longest = min(longest, time.monotonic() - began)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
            kills += 1
        resumed += "resuming" in err
    succeed(stormy, *DEMO)
    amid = 0
    for folder in run_dirs(stormy):  # a run that was finished is not resumed: the next one starts anew
        assert (folder / "outputs.jsonl").read_bytes() == expected
        with sqlite3.connect(folder / "journal.sqlite") as database:
            sessions = database.execute("SELECT status, rows FROM sessions").fetchall()
        amid += sum(status == "KILLED" and 0 < rows < 24 for status, rows in sessions)
    assert resumed >= 5  # most kills hit a run that had begun,
    assert amid >= 1  # and some of them one with finished rows
