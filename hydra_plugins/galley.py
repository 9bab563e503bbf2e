"""Galley's sweeper and launcher as Hydra finds them: plugins must lie in ``hydra_plugins``. All of it is in
``runner.sweep``, imported when a sweep runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class JobSweeper(Sweeper):
    """Grid, cases, repeats and search; runs with any launcher.

    Args:
        params: as in Hydra's own sweeper.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self._params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives."""
        self.hydra_context, self.config, self._task_function = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs."""
        from runner.sweep.hydra_sweep import sweep

        assert self.hydra_context is not None
        assert self.config is not None
        sweep(self.hydra_context, self._task_function, self.config, self._params, arguments)


class LocalLauncher(Launcher):
    """A process for each job on this machine.

    Args:
        jobs: how many at once on the CPU, and on GPUs at most so many.
        fail_fast: stop everything when a job fails.
    """

    def __init__(self, jobs: int | None = None, fail_fast: bool = False) -> None:
        self._jobs, self._fail_fast = jobs, fail_fast

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing of Hydra's is needed: a job's file has everything."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs to their ends."""
        from runner.sweep.hydra_sweep import launch_here

        return launch_here(job_overrides, self._jobs, self._fail_fast)
