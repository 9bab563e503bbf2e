"""How torch's threads behave, decided before torch is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def set_thread_defaults(environment: MutableMapping[str, str]) -> None:
    """Passive waiting and one thread per physical core, unless the user has chosen.

    OpenMP threads that spin while they wait slow each other down a hundredfold where cores are shared.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(available_cores())


def available_cores() -> int:
    """Physical cores that this process may use: affinity and container quota count."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical, _quota() or allowed))


def _quota() -> int | None:
    """Whole cores of the container's CPU quota (cgroup v2); ``None`` without one."""
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None
