"""Whatever ends a run, nothing finished is lost and nothing is done twice."""

from __future__ import annotations

import random
import resource
import shlex
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.runner.launch import (
    NULL,
    SECONDS,
    articles,
    only_run,
    records,
    refused,
    run,
    run_dirs,
    start,
    succeed,
    wait_for_rows,
)

ROWS = 60
SLOW = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl", "dataset.limit=null", "engine.seconds_per_step=0.05",
        "engine.max_num_seqs=4", "sampling.max_tokens=8")  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """outputs.jsonl of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    articles(folder, ROWS)
    succeed(folder, *SLOW)
    return (only_run(folder) / "outputs.jsonl").read_bytes()


def test_kill_at_random_moments(tmp_path: Path, uninterrupted: bytes) -> None:
    articles(tmp_path, ROWS)
    moments = random.Random(7)
    killed = 0
    for _ in range(6):
        process = start(tmp_path, *SLOW)
        time.sleep(moments.uniform(0.5, 2.2))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    succeed(tmp_path, *SLOW)
    assert killed >= 3
    for finished in run_dirs(tmp_path):  # a run that was finished before its kill is not resumed
        assert (finished / "outputs.jsonl").read_bytes() == uninterrupted
        with sqlite3.connect(finished / "journal.sqlite") as database:
            indices = [row[0] for row in database.execute("SELECT idx FROM rows ORDER BY idx")]
            statuses = [row[0] for row in database.execute("SELECT status FROM sessions ORDER BY number")]
            rows = [row[0] for row in database.execute("SELECT rows FROM sessions ORDER BY number")]
        assert indices == list(range(ROWS))
        assert sum(rows) == ROWS
        assert statuses[-1] == "FINISHED"
        assert set(statuses[:-1]) <= {"KILLED"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_cleanly_and_the_printed_line_resumes(
    tmp_path: Path, uninterrupted: bytes, number: signal.Signals, code: int
) -> None:
    articles(tmp_path, ROWS)
    process = start(tmp_path, *SLOW)
    wait_for_rows(process, tmp_path, 5)
    process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code
    assert "Traceback" not in err
    with sqlite3.connect(only_run(tmp_path) / "journal.sqlite") as database:
        kept = database.execute("SELECT COUNT(*) FROM rows").fetchone()[0]
        assert database.execute("SELECT status FROM sessions").fetchall() == [("KILLED",)]
    assert 5 <= kept < ROWS
    assert f"{kept} rows are finished and kept" in err
    live = records(only_run(tmp_path) / "outputs.jsonl")
    assert len(live) == kept
    (line,) = [line for line in err.splitlines() if line.startswith("resume with: runner ")]
    succeed(tmp_path, *shlex.split(line)[3:])
    assert (only_run(tmp_path) / "outputs.jsonl").read_bytes() == uninterrupted


def test_a_signal_while_the_model_loads(tmp_path: Path) -> None:
    articles(tmp_path, 2)
    process = start(tmp_path, *SLOW, "engine.startup_seconds=30")
    while not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs/demo").glob("*/config.yaml")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, err
    assert "resume with: runner" in err
    assert "Traceback" not in err


def test_disk_full_is_one_message_and_resumes(tmp_path: Path) -> None:
    articles(tmp_path, 3000)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl", "dataset.limit=null")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    full = run(tmp_path, *words, before=limit)
    assert full.returncode == 1, full.stderr
    assert "Is the disk full?" in full.stderr
    assert "Traceback" not in full.stderr
    assert "resume with: runner" in full.stderr
    succeed(tmp_path, *words)
    assert [record["id"] for record in records(only_run(tmp_path) / "outputs.jsonl")] == [f"a{n}" for n in range(3000)]


def test_another_configuration_is_another_run(tmp_path: Path) -> None:
    articles(tmp_path, 10)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl")
    refused(tmp_path, *words, "engine.fail_after=4", code=1)
    unfinished = only_run(tmp_path)
    message = refused(tmp_path, *words, f"resume={unfinished}")
    assert "engine.fail_after: 4 there, None now" in message
    succeed(tmp_path, *words)
    assert len(run_dirs(tmp_path)) == 2
    finished = next(path for path in run_dirs(tmp_path) if path != unfinished)
    assert "finished" in refused(tmp_path, *words, f"resume={finished}")


def test_other_data_is_another_run_and_another_path_is_not(tmp_path: Path) -> None:
    articles(tmp_path, 10)
    words = ("+recipe=demo", *NULL, "engine.fail_after=4")
    refused(tmp_path, *words, "dataset.path=articles.jsonl", code=1)
    (tmp_path / "articles.jsonl").rename(tmp_path / "moved.jsonl")
    refused(tmp_path, *words, "dataset.path=moved.jsonl", "progress=false", code=1)
    assert len(run_dirs(tmp_path)) == 1
    articles(tmp_path, 9)
    refused(tmp_path, *words, "dataset.path=articles.jsonl", code=1)
    assert len(run_dirs(tmp_path)) == 2


def test_a_run_in_use_is_left_alone(tmp_path: Path) -> None:
    articles(tmp_path, ROWS)
    process = start(tmp_path, *SLOW)
    try:
        wait_for_rows(process, tmp_path, 1)
        process.send_signal(signal.SIGSTOP)  # it holds the folder however long the other one takes to look
        held = only_run(tmp_path)
        assert "in use" in refused(tmp_path, *SLOW, f"resume={held}")
    finally:
        process.kill()
        process.communicate()


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    articles(tmp_path, 3)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl")
    succeed(tmp_path, *words)
    succeed(tmp_path, *words)
    assert len(run_dirs(tmp_path)) == 2


def test_an_interrupted_finish_is_finished_without_an_engine(tmp_path: Path) -> None:
    articles(tmp_path, 3)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl")
    succeed(tmp_path, *words)
    finished = only_run(tmp_path)
    before = (finished / "outputs.jsonl").read_bytes()
    with sqlite3.connect(finished / "journal.sqlite") as database:  # as if killed just before its last note
        database.execute("UPDATE meta SET value = '\"running\"' WHERE key = 'state'")
    (finished / "outputs.jsonl").unlink()
    succeed(tmp_path, *words)
    assert only_run(tmp_path) == finished
    assert (finished / "outputs.jsonl").read_bytes() == before
    with sqlite3.connect(finished / "journal.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM sessions").fetchone() == (1,)


def test_a_kill_before_the_configuration_was_written(tmp_path: Path, uninterrupted: bytes) -> None:
    """The journal is there first, so that a run can always be found again."""
    articles(tmp_path, ROWS)
    process = start(tmp_path, *SLOW)
    wait_for_rows(process, tmp_path, 5)
    process.kill()
    process.communicate()
    (only_run(tmp_path) / "config.yaml").unlink()
    succeed(tmp_path, *SLOW)
    assert (only_run(tmp_path) / "outputs.jsonl").read_bytes() == uninterrupted
    assert "seconds_per_step: 0.05" in (only_run(tmp_path) / "config.yaml").read_text()
