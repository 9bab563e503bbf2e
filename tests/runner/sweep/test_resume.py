"""Whatever ends a sweep, the same command runs what is missing and nothing else."""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.runner.launch import SECONDS, articles, refused, run_dirs, start, succeed
from tests.runner.sweep.sweeps import SLOW, outputs, rows_of, states, sweep_in, wait_for

ROWS = 24
WORDS = (*SLOW, "engine.max_num_seqs=3,4", "sweep.repeats=2")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def check_complete(folder: Path) -> None:
    """Four jobs, four runs, every row once."""
    sweep = sweep_in(folder)
    assert [state.standing for state in states(sweep)] == ["finished"] * 4
    assert len(run_dirs(folder)) == 4
    assert len({state.run_dir for state in states(sweep)}) == 4
    assert len(set(outputs(sweep))) == 1
    for state in states(sweep):
        assert state.run_dir is not None
        with sqlite3.connect(state.run_dir / "journal.sqlite") as database:
            indices = [row[0] for row in database.execute("SELECT idx FROM rows ORDER BY idx")]
            rows = [row[0] for row in database.execute("SELECT rows FROM sessions")]
        assert indices == list(range(ROWS))
        assert sum(rows) == ROWS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_everything_and_the_printed_line_goes_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    articles(tmp_path, ROWS)
    process = start(tmp_path, *WORDS, "hydra.launcher.jobs=2")
    sweep = wait_for(process, tmp_path, lambda sweep: rows_of(sweep, 1) >= 3)
    process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert [state.standing for state in states(sweep)] == ["killed", "killed", "planned", "planned"]
    assert "0 of 4 jobs are through" in err
    run_dir = states(sweep)[0].run_dir  # the second may have been on its way to one
    assert run_dir is not None
    with sqlite3.connect(run_dir / "journal.sqlite") as database:
        assert database.execute("SELECT status FROM sessions").fetchall() == [("KILLED",)]
    assert 3 <= rows_of(sweep, 1) < ROWS
    (line,) = [line for line in err.splitlines() if line.startswith("resume with: runner ")]
    result = succeed(tmp_path, *shlex.split(line)[3:])
    assert "resuming the sweep" in result.stderr
    check_complete(tmp_path)


def test_a_killed_sweep_takes_its_jobs_along_and_goes_on(tmp_path: Path) -> None:
    """Killed twice, once in the first job and once later; the jobs end with it, so that none runs twice at once."""
    articles(tmp_path, ROWS)
    for place in (1, 3):
        process = start(tmp_path, *WORDS)
        sweep = wait_for(process, tmp_path, lambda sweep, place=place: rows_of(sweep, place) >= 2)  # type: ignore[misc]
        pid = sweep.state(sweep.jobs[place - 1]).pid
        assert pid is not None
        process.kill()
        process.communicate()
        deadline = time.monotonic() + SECONDS
        while alive(pid):
            assert time.monotonic() < deadline, "the job outlives its sweep"
            time.sleep(0.05)
    succeed(tmp_path, *WORDS)
    check_complete(tmp_path)
    assert sum(state.starts for state in states(sweep_in(tmp_path))) == 6


def test_another_sweep_is_not_resumed(tmp_path: Path) -> None:
    articles(tmp_path, 2)
    quick = (*SLOW, "engine.seconds_per_step=0", "engine.fail_after=0")
    refused(tmp_path, *quick, "engine.max_num_seqs=1,2", code=1)
    folder = sweep_in(tmp_path).path
    assert "another sweep, of 2 jobs" in refused(tmp_path, *quick, "engine.max_num_seqs=1,3", f"resume={folder}")
    assert "no sweep's folder" in refused(tmp_path, *quick, "engine.max_num_seqs=1,3", "resume=outputs")
    refused(tmp_path, *quick, "engine.max_num_seqs=1,2", f"resume={folder}", code=1)
    assert [state.starts for state in states(sweep_in(tmp_path))] == [2, 2]


def test_a_sweep_in_use_is_left_alone(tmp_path: Path) -> None:
    articles(tmp_path, ROWS)
    process = start(tmp_path, *WORDS)
    try:
        sweep = wait_for(process, tmp_path, lambda sweep: rows_of(sweep, 1) >= 1)
        assert "in use" in refused(tmp_path, *WORDS, f"resume={sweep.path}")
    finally:
        process.terminate()
        process.communicate()


def test_a_job_through_but_for_its_note_is_not_run_again(tmp_path: Path) -> None:
    articles(tmp_path, 2)
    words = (*SLOW, "engine.max_num_seqs=1,2")
    succeed(tmp_path, *words)
    sweep = sweep_in(tmp_path)
    note = sweep.job(sweep.jobs[0]).file("state.json")
    note.write_text(note.read_text().replace('"finished"', '"running"'))  # as if killed just before
    other = sweep.job(sweep.jobs[1]).file("state.json")
    other.unlink()  # and one that was never noted at all: its finished run is another matter
    succeed(tmp_path, *words)
    assert states(sweep_in(tmp_path))[0].starts == 1
    assert states(sweep_in(tmp_path))[1].standing == "finished"
