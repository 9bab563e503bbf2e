"""Child processes that report in JSON lines: both ends.

Each engine under test gets a process of its own, because a process gives a device's memory back only when it ends. What
a child has reported survives its death.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SECONDS_TO_DIE = 10.0  # that a killed process may take to give the device back
TAIL = 400  # characters of a dead child's messages that its row shows


def reporter() -> Callable[[Row], None]:
    """For the child: a function that reports a row. From here on, what libraries print goes to standard error."""
    sys.stdout.flush()
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(row: Row) -> None:
        print(json.dumps(row), file=rows, flush=True)

    return report


def child_rows(
    command: Sequence[str], log: Path, timeout: float, environment: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """For the parent: a child's rows as they come; the last has event ``failed`` and a reason if it did not end well.

    Args:
        command: the child's; it and whatever it starts are killed at the end.
        log: file for its messages.
        timeout: seconds after which it is killed.
        environment: the child's; ``None`` is this process's own.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    expired = threading.Event()
    began = time.monotonic()
    with log.open("w") as messages:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=messages, text=True, start_new_session=True, env=environment
        )
        assert child.stdout is not None

        def expire() -> None:
            expired.set()
            _kill_group(child.pid)

        timer = threading.Timer(timeout, expire)
        timer.start()
        failed = False
        try:
            for line in child.stdout:
                row = _row(line)
                failed |= row.get("event") == "failed"
                yield row
            child.wait()
        finally:
            timer.cancel()
            _kill_group(child.pid)
            child.wait()
            _await_end(child.pid)
    seconds = round(time.monotonic() - began, 1)
    if expired.is_set():
        yield {"event": "failed", "reason": f"killed after {timeout:g} s: out of time", "seconds": seconds}
    elif child.returncode and not failed:
        end = " ".join(log.read_text(errors="replace").split())[-TAIL:]
        yield {"event": "failed", "reason": f"ended with code {child.returncode}: …{end}", "seconds": seconds}


def _row(line: str) -> Row:
    try:
        row: Row = json.loads(line)
    except ValueError:  # cut off when the child was killed, or not written by its reporter
        return {"event": "failed", "reason": f"not a row: {line[:TAIL]!r}"}
    return row


def _kill_group(group: int) -> None:
    """Kill a child and what it started: an engine may hold the device in a process of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _await_end(group: int) -> None:
    """Wait until a killed group is gone, and has given the device's memory back."""
    until = time.monotonic() + SECONDS_TO_DIE
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.05)
