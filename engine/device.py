"""What the device is, and how much of its memory was in use."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def describe(device: torch.device) -> Mapping[str, str]:
    """Type and name of the device; of a CPU also the threads, of a GPU the UUID by which NVML knows it."""
    import torch

    if device.type == "cpu":
        return {"type": "cpu", "name": cpu_name(), "threads": str(torch.get_num_threads())}
    properties = torch.cuda.get_device_properties(device)
    return {"type": device.type, "name": properties.name, "uuid": f"GPU-{properties.uuid}"}


@functools.cache
def cpu_name() -> str:
    """The processor's name; on Linux from /proc/cpuinfo, because ``platform.processor()`` is often empty there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> tuple[int | None, int | None]:
    """The most bytes that tensors held, and that torch's allocator held for them; ``None`` on the CPU."""
    import torch

    if device.type != "cuda":
        return None, None
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
