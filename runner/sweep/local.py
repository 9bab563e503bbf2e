"""Jobs in processes of this machine, as many at once as there are slots."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.job import note_end, read_state
from runner.sweep.job_file import JobFile
from runner.sweep.slots import Slot

POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0  # to keep what is finished, before SIGKILL
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
KILLED_HINT = "the kernel does that when memory runs out; somebody may also have killed it"


@dataclass(frozen=True)
class _Running:
    file: JobFile
    slot: Slot
    process: subprocess.Popen[bytes]
    oom_kills: int  # of this container, when it began


@dataclass
class LocalJobs:
    """Runs jobs in their order; a job that dies leaves the others alone.

    Args:
        slots: where jobs run.
        fail_fast: stop everything at the first failure.
        environment: of the jobs' processes, besides what the slot says.
    """

    slots: Sequence[Slot]
    fail_fast: bool
    environment: Mapping[str, str]
    _running: list[_Running] = field(default_factory=list)

    def run(self, files: Sequence[JobFile]) -> None:
        """Run all; how each ended is in its state.

        Raises:
            Interrupted: a signal arrived; all jobs have kept what they finished.
        """
        waiting, free = list(files), list(self.slots)
        try:
            while waiting or self._running:
                while waiting and free:
                    self._running.append(self._start(waiting.pop(0), free.pop(0)))
                time.sleep(POLL_SECONDS)
                ended = [job for job in self._running if job.process.poll() is not None]
                for job in ended:
                    self._running.remove(job)
                    free.append(job.slot)
                    failed = self._settle(job, stopped=False)
                    if failed and self.fail_fast:
                        waiting.clear()
                        self._stop()
        except BaseException:
            self._stop()
            raise

    def _start(self, file: JobFile, slot: Slot) -> _Running:
        """A process in a session of its own: Ctrl-C reaches it through us, once."""
        with file.job.file("log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "runner.sweep.process", str(file.job.file("json")), "--with-parent"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, **slot.environment},
                start_new_session=True,
            )
        return _Running(file, slot, process, _oom_kills())

    def _settle(self, job: _Running, stopped: bool) -> bool:
        """Close what belongs to an ended process, and note its end if it could not; whether the job failed."""
        if job.process.stdin is not None:
            job.process.stdin.close()
        state = read_state(job.file.job)
        code = job.process.returncode
        if state.standing in ("planned", "running"):
            if stopped:
                note_end(job.file.job, "killed", 128 - code if code < 0 else code, died=True)
            else:
                note_end(job.file.job, "failed", 1, self._cause(job, code), died=True)
        return read_state(job.file.job).standing == "failed"

    def _cause(self, job: _Running, code: int) -> str:
        if code >= 0:
            return f"its process ended with exit code {code}{_last_line(job.file.job.file('log'))}"
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            more = "its container ran out of memory" if _oom_kills() > job.oom_kills else KILLED_HINT
            return f"its process was killed by {name}: {more}"
        return f"its process was killed by {name}{_last_line(job.file.job.file('log'))}"

    def _stop(self) -> None:
        """Ask all to end, wait until they have, and note how."""
        for job in self._running:
            _send(job, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(job.process.poll() is None for job in self._running) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        for job in self._running:
            if job.process.poll() is None:
                _send(job, signal.SIGKILL)
                job.process.wait()
            self._settle(job, stopped=True)
        self._running.clear()


def _send(job: _Running, number: signal.Signals) -> None:
    if job.process.poll() is None:
        job.process.send_signal(number)


def _oom_kills() -> int:
    """How often the kernel killed in this container for want of memory; 0 where it does not say."""
    try:
        lines = dict(line.split() for line in MEMORY_EVENTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("oom_kill", 0))


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return f": {lines[-1].strip()}" if lines else ""
