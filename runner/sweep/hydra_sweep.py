"""What Hydra's plugins do: from Hydra's objects to the sweep and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.command import config_dir_of
from runner.errors import ConfigError
from runner.sweep.compose import Composer
from runner.sweep.job_file import JobFile, read_job_file
from runner.sweep.local import LocalJobs
from runner.sweep.request import Request
from runner.sweep.session import Launch
from runner.sweep.slots import slots
from runner.sweep.sweep import run_sweep


def sweep(
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    params: Any,
    arguments: Sequence[str],
) -> None:
    """Run the sweep that Hydra composed.

    Raises:
        RunnerError, Interrupted: see ``run_sweep``.
    """

    def launcher(folder: Path) -> Launch:
        with open_dict(config):
            config.hydra.sweep.dir = str(folder)  # launchers of clusters keep their own files there
        plugin = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )

        def launch(jobs: Sequence[Sequence[str]]) -> None:
            plugin.launch(jobs, initial_job_idx=0)

        return launch

    def at_once(wants_gpu: bool) -> int:
        if not str(config.hydra.launcher.get("_target_")).endswith(".LocalLauncher"):
            return 1
        return len(slots(config.hydra.launcher.jobs, wants_gpu, os.environ))

    words = sys.argv[1:]
    plain: Any = OmegaConf.to_container(params) if OmegaConf.is_config(params) else params
    composer = Composer(context.config_loader, config)
    run_sweep(Request(composer, plain, list(arguments), config_dir_of(words), words, launcher, at_once))


def launch_here(job_overrides: Sequence[Sequence[str]], jobs: int | None, fail_fast: bool) -> list[JobReturn]:
    """Run jobs in processes of this machine."""
    files = [_job_file(overrides) for overrides in job_overrides]
    places = slots(jobs, any(file.wants_gpu for file in files), os.environ)
    LocalJobs(places, fail_fast, dict(os.environ)).run(files)
    return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]


def _job_file(overrides: Sequence[str]) -> JobFile:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == "job":
            return read_job_file(Path(str(override.value())))
    raise ConfigError("hydra/launcher=local needs hydra/sweeper=galley")
