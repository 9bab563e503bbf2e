"""What jobs on one machine share: GPUs, of which each has one job at a time, or a number of places on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from runner.errors import ConfigError
from runner.threads import available_cores

DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """A place for one job: ``environment`` is what its process gets to see of the machine."""

    name: str
    environment: Mapping[str, str]


def slots(jobs: int | None, wants_gpu: bool, environment: Mapping[str, str]) -> list[Slot]:
    """The places on this machine.

    Args:
        jobs: at most so many; ``None`` is as many as there are GPUs, or one on the CPU.
        wants_gpu: whether any job can use a GPU.
        environment: this process's; a ``CUDA_VISIBLE_DEVICES`` in it says which GPUs may be used.

    Raises:
        ConfigError: ``jobs`` is not a positive number.
    """
    if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1):
        raise ConfigError(f"hydra.launcher.jobs={jobs!r} is not allowed: it must be a whole number from 1, or null")
    gpus = visible_gpus(environment) if wants_gpu else []
    if gpus:
        return [Slot(f"GPU {n}", {DEVICES: gpu}) for n, gpu in enumerate(gpus)][: jobs or len(gpus)]
    return [Slot(f"CPU {number}", _threads(jobs or 1, environment)) for number in range(jobs or 1)]


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that jobs may use, as values of ``CUDA_VISIBLE_DEVICES``; found through NVML, not through CUDA, which
    would take memory on each of them."""
    given = environment.get(DEVICES)
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        return [name for name in names if name and not name.startswith("-")]
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return [_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _threads(jobs: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Jobs side by side share the cores instead of each taking all of them."""
    if jobs == 1:
        return {}
    now = environment.get("OMP_NUM_THREADS") or str(available_cores())
    share = max(1, (os.cpu_count() or 1) // jobs)
    return {"OMP_NUM_THREADS": str(min(int(now), share)) if now.isdigit() else str(share)}
