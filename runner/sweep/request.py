"""What the command line and the recipe asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.command import run_command
from runner.sweep.compose import Composer
from runner.sweep.plan import PlannedJob
from runner.sweep.session import Launch


@dataclass(frozen=True)
class Request:
    """What the command line and the recipe asked for.

    Args:
        composer: over the base configuration.
        params: ``hydra.sweeper.params``.
        arguments: the overrides of the command line.
        config_dir: of ``--config-dir``.
        words: the command line without ``runner``.
        launcher: given the sweep's folder, what runs jobs.
        at_once: how many jobs that launcher runs together, given whether they want a GPU.
    """

    composer: Composer
    params: Mapping[str, Any] | None
    arguments: Sequence[str]
    config_dir: str | None
    words: Sequence[str]
    launcher: Callable[[Path], Launch]
    at_once: Callable[[bool], int]

    @property
    def command(self) -> tuple[str, ...]:
        """What starts or resumes the sweep."""
        return ("runner", *(word for word in self.words if word.lstrip("+").partition("=")[0] != "resume"))

    def job_command(self, planned: PlannedJob) -> list[str]:
        """What runs one job alone."""
        return run_command(self.config_dir, planned.variant.overrides, alone=True)
