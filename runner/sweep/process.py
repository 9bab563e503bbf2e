"""A job in its own process: ``python -m runner.sweep.process JOB_FILE [--with-parent]``.

With ``--with-parent`` the process ends, as by SIGTERM, when its standard input does: its parent holds the other end, so
that no job outlives a killed sweep and nobody runs a job twice at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from runner.errors import Interrupted, RunFailedError, RunnerError
from runner.folder_lock import lock_file
from runner.job import Job, note_end, note_started, standing_of
from runner.sweep.job_file import JobFile, read_job_file
from runner.terminal import show_what_can_be_shown
from runner.threads import set_thread_defaults

LOCK_SECONDS = 60.0  # the job's process of a sweep that was killed just now may still be ending


def main(arguments: Sequence[str]) -> int:
    """Run one job and give its exit code."""
    if "--with-parent" in arguments:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    set_thread_defaults(os.environ)
    show_what_can_be_shown()
    return run_job(read_job_file(Path(arguments[0])))


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def run_job(file: JobFile) -> int:
    """Run or resume the job, note how it stands, and give the exit code that the command line would give.

    Raises:
        RunFailedError: another process is at this job, and stays there.
    """
    lock = _only_one(file.job)
    try:
        note_started(file.job)
        code, error = _attempt(file)
        note_end(file.job, standing_of(code), code, error)
        return code
    finally:
        os.close(lock)


def _attempt(file: JobFile) -> tuple[int, str | None]:
    """Exit code and, of a failure, its cause."""
    from runner.config import parse
    from runner.run import run

    try:
        run(parse(file.config), file.config, file.command, file.job)
        return 0, None
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code, str(error)
    except Interrupted as interrupt:
        return 128 + interrupt.signal_number, None
    except Exception as error:  # a defect of ours, or no memory: the log has the traceback
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {error}".rstrip(": ")


def _only_one(job: Job) -> int:
    deadline = time.monotonic() + LOCK_SECONDS
    while (lock := lock_file(job.file("lock"))) is None:
        if time.monotonic() > deadline:
            raise RunFailedError(f"job {job.number} is in use: another process is running it now")
        time.sleep(0.1)
    return lock


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
