"""What can go wrong, as messages for the user and as exit codes."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path


class RunnerError(Exception):
    """An error whose message is meant for the user: shown alone, without a traceback. ``run_dir`` is the folder of the
    run that it ended, if there is one."""

    exit_code = 1
    run_dir: Path | None = None


class ConfigError(RunnerError):
    """What was asked for is wrong; nothing has been computed."""

    exit_code = 2


class RunFailedError(RunnerError):
    """The run began and did not end well; what was finished is kept."""


class RequirementError(RunnerError):
    """The run is complete, and a metric is not what its recipe requires."""

    exit_code = 3


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. Not an ``Exception``: no handler of errors on the way may swallow it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known name that looks most like ``name``, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return f"; did you mean '{found[0]}'?" if found and name else ""


def listing(names: Iterable[str]) -> str:
    """The names sorted and with commas, or ``none``."""
    return ", ".join(sorted(names)) or "none"
