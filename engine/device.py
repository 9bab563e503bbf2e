"""Which device computes and in which precision, what it is, and how much of its memory was in use."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.params import ParameterError

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


def choose_device(name: str) -> torch.device:
    """The device to run on; ``auto`` takes CUDA where there is one.

    Raises:
        ParameterError: CUDA is asked for and not there.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device", name, "cpu or auto on this machine: torch sees no CUDA device")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(name: str, config: Mapping[str, Any], device: torch.device) -> torch.dtype:
    """The dtype of weights and activations; ``auto`` is the checkpoint's own, and float32 where it names none.

    float16 has no fast product on the CPU, so there ``auto`` takes bfloat16 in its place.
    """
    import torch

    if name == "auto":
        name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
        name = "bfloat16" if name == "float16" and device.type == "cpu" else name
    elif name == "float16" and device.type == "cpu":
        raise ParameterError("dtype", name, "auto, float32 or bfloat16 on the CPU")
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def release_memory(device: torch.device) -> None:
    """Give back to device and system what no object holds any more; allocators keep it for themselves otherwise."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc has it
        trim(0)


def set_threads() -> None:
    """Use all of the machine's physical cores, unless OMP_NUM_THREADS says otherwise."""
    import psutil
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
