"""Devices, memory, threads, disk and environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from engine.model.cache import cache_folder
from runner.doctor.finding import Finding
from runner.threads import available_cores

GIB = 1 << 30
LEAST_MEMORY = 2 * GIB  # the demo's model with its cache
LEAST_DISK, LITTLE_DISK = GIB // 4, 5 * GIB
FREE_SHARE = 0.8  # of a GPU's memory, under which something else uses it


def check_devices() -> Iterator[Finding]:
    """The CPU, and each GPU with what uses it. Imports torch."""
    import torch

    from engine.device import cpu_name

    capability = torch.backends.cpu.get_cpu_capability()
    slow = capability not in ("AVX2", "AVX512") and torch.backends.mkldnn.is_available()
    fix = "a CPU with AVX2 or AVX-512 is several times faster" if slow else ""
    found = f"{cpu_name()}, {available_cores()} cores, {capability}"
    yield Finding("WARN" if slow else "OK", "cpu", found, fix)
    if not torch.cuda.is_available():
        yield from _no_gpu(torch.version.cuda)
        return
    for number in range(torch.cuda.device_count()):
        yield _gpu(torch.cuda.get_device_name(number), number, *torch.cuda.mem_get_info(number))


def _no_gpu(built_for: str | None) -> Iterator[Finding]:
    """Having none is fine; having one that torch cannot see is not."""
    if not Path("/proc/driver/nvidia/version").exists():
        yield Finding("OK", "gpu", "none; recipes run on the CPU")
    elif built_for is None:
        yield Finding(
            "FAIL", "gpu", "there is an NVIDIA driver, and this torch is a CPU build", "pip install torch (with CUDA)"
        )
    else:
        fix = "compare the driver's version (nvidia-smi) with torch's CUDA, and look at CUDA_VISIBLE_DEVICES"
        yield Finding("FAIL", "gpu", f"there is an NVIDIA driver, and torch (CUDA {built_for}) sees no device", fix)


def _gpu(name: str, number: int, free: int, total: int) -> Finding:
    found = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free >= FREE_SHARE * total:
        return Finding("OK", f"gpu {number}", found)
    return Finding("WARN", f"gpu {number}", found, "another process uses it (nvidia-smi): timings will not be its own")


def check_memory() -> Iterator[Finding]:
    """Main memory that is free now."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    enough = memory.available >= LEAST_MEMORY
    fix = "" if enough else "close other programs: weights and the KV cache come on top of about 1 GiB"
    yield Finding("OK" if enough else "WARN", "memory", found, fix)


def check_threads(environment: Mapping[str, str]) -> Iterator[Finding]:
    """OpenMP's settings as the user gave them; ``runner`` sets the others itself."""
    policy, threads, cores = environment.get("OMP_WAIT_POLICY"), environment.get("OMP_NUM_THREADS"), available_cores()
    if policy is not None and policy.upper() != "PASSIVE":
        fix = "unset OMP_WAIT_POLICY (or PASSIVE): threads that spin slow each other a hundredfold on shared cores"
        yield Finding("WARN", "OMP_WAIT_POLICY", policy, fix)
    else:
        yield Finding("OK", "OMP_WAIT_POLICY", policy or "not set; runner takes PASSIVE")
    if threads is None:
        yield Finding("OK", "OMP_NUM_THREADS", f"not set; runner takes {cores}")
    elif not threads.isdecimal() or int(threads) < 1:
        yield Finding("FAIL", "OMP_NUM_THREADS", threads, f"unset it, or a number from 1 to {cores}")
    elif int(threads) > cores:
        yield Finding("WARN", "OMP_NUM_THREADS", f"{threads}, for {cores} cores", f"unset it, or at most {cores}")
    else:
        yield Finding("OK", "OMP_NUM_THREADS", f"{threads}, for {cores} cores")
    if environment.get("TRITON_INTERPRET") == "1":
        yield Finding(
            "WARN", "TRITON_INTERPRET", "1", "unset it: GPU kernels are interpreted, thousands of times slower"
        )


def check_disk(outputs: Path) -> Iterator[Finding]:
    """Room and permission where runs and caches go."""
    for what, folder, change in (
        ("disk of outputs", outputs, "output_root=FOLDER"),
        ("cache folder", cache_folder(), "GALLEY_CACHE=FOLDER"),
    ):
        yield _folder(what, folder, change)


def _folder(what: str, folder: Path, change: str) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("FAIL", what, f"{there} cannot be written", f"make it writable, or choose another: {change}")
    free = shutil.disk_usage(there).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if free < LEAST_DISK:
        return Finding("FAIL", what, found, f"free some space, or choose another: {change}")
    return Finding("WARN" if free < LITTLE_DISK else "OK", what, found, "it is little" if free < LITTLE_DISK else "")
