"""The journal, its writer and the run folder, without a command line around them."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import Interrupted, RunFailedError
from runner.interrupts import Interrupts
from runner.journal import DoneRows, Entry, Journal
from runner.writer import Finished, Writer, to_json


def entry(index: int, error: str | None = None) -> Entry:
    return Entry(index, f"r{index}", 1, "{}", 1, 0, 2, 0.0, 0.0, 0.1, 0.2, 0, "stop", error)


@given(st.sets(st.integers(0, 60)))
def test_done_rows_against_a_set(indices: set[int]) -> None:
    done = DoneRows(iter(sorted(indices)))
    assert {index for index in range(-1, 62) if index in done} == indices
    assert done.count == len(indices)


def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    session = journal.begin_session(0.0)
    journal.append([entry(0), entry(1)], session, 0.5, 1.0)
    with pytest.raises(sqlite3.IntegrityError):
        journal.append([entry(2), entry(1)], session, 0.5, 9.0)
    assert journal.counts() == (2, 0)
    (only,) = journal.sessions()
    assert (only.rows, only.measured_seconds, only.status) == (2, 1.0, "RUNNING")
    assert journal.begin_session(1.0) == 2
    assert [session.status for session in journal.sessions()] == ["KILLED", "RUNNING"]


def test_what_is_put_is_durable_within_moments_and_visible_to_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    session = journal.begin_session(0.0)
    with Writer(journal, tmp_path / "live", session, 0.0, time.monotonic()) as writer:
        writer.put(Finished(entry(4), {"id": "r4"}))
        other = sqlite3.connect(tmp_path / "j")
        deadline = time.monotonic() + 60
        while not other.execute("SELECT COUNT(*) FROM rows").fetchone()[0]:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        for index in range(5, 5000):
            writer.put(Finished(entry(index), {"id": f"r{index}"}))
        writer.put(Finished(entry(5000, "bad"), {"id": "r5000", "error": "bad"}))
    assert journal.counts() == (4997, 1)
    assert list(journal.records(errors=False))[:2] == ['{"id": "r4"}', '{"id": "r5"}']
    assert (tmp_path / "live").read_text() == "".join(f"{line}\n" for line in journal.records(errors=False))


def test_a_failure_of_the_writer_reaches_the_loop(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    session = journal.begin_session(0.0)
    writer = Writer(journal, None, session, 0.0, time.monotonic())
    journal.close()

    def run_loop() -> None:
        with writer:
            for index in range(100_000):
                writer.put(Finished(entry(index), {}))

    with pytest.raises(RunFailedError, match="could not be written"):
        run_loop()
    assert "journal" not in {thread.name for thread in threading.enumerate()}


def test_json_that_any_reader_takes() -> None:
    import datetime

    assert to_json({"a": "ü\n", "b": datetime.date(2024, 1, 2)}) == '{"a": "ü\\n", "b": "2024-01-02"}'
    assert to_json({"a": "\ud800"}).encode() == b'{"a": "\\ud800"}'


def signalled(number: signal.Signals, seen: list[str]) -> None:
    """Get a signal in a shielded block, or with no ``seen`` outside of one."""
    with Interrupts() as interrupts:
        if not seen:
            os.kill(os.getpid(), number)
            time.sleep(5)
        with interrupts.shielded():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            seen.append("end of block")
        seen.append("after it")


def test_an_interrupt_waits_for_the_end_of_a_shielded_block_only() -> None:
    seen = ["begin"]
    with pytest.raises(Interrupted, match="SIGTERM"):
        signalled(signal.SIGTERM, seen)
    assert seen == ["begin", "end of block"]
    began = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        signalled(signal.SIGINT, [])
    assert time.monotonic() - began < 4
    assert caught.value.signal_number == signal.SIGINT
