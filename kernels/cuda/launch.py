# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Programmatic dependent launch: a kernel starts while the one before it in the stream still runs.

Such a kernel may do nothing before ``wait_for_earlier`` but read what no kernel writes (weights). Waiting means that
the kernel before has ended and its writes are visible; since that one has waited for its own predecessor, all earlier
kernels have ended too. So every program of every kernel launched this way must wait, also one that has nothing to do.
Kernels without it (cuBLAS, torch) start and end as usual.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable
from functools import cache

import torch
import triton
import triton.language as tl

from kernels.cuda.options import kernel_options

_fitting: dict[Hashable, int] = {}  # stages that fit, where the first choice did not


@triton.jit
def wait_for_earlier(EARLY: tl.constexpr):
    """Wait for all earlier kernels, then let the next one start: it waits for this one's end in turn.

    Letting it start before waiting is as safe, but measured slower: programs of several kernels then wait side by side.
    """
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


def starts_early(device: torch.device) -> bool:
    """Whether kernels are launched this way: compute capability 9.0 at least, and not switched off."""
    return kernel_options().programmatic_launch and _capable(device)


def launch_arguments(early: bool) -> dict[str, bool]:
    """Keyword arguments of a launch whose kernel calls ``wait_for_earlier(early)``."""
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}


def with_stages(launch: Callable[[int], object], stages: int, kernel: Hashable) -> None:
    """Launch a kernel whose loop has ``stages`` iterations on their way, or as many as fit into shared memory.

    Results do not depend on them. Devices have 99 to 227 KB for a program; what a number of stages needs is known when
    the kernel is compiled, and nothing has been launched when there is too little.

    Args:
        launch: called with the number of stages.
        stages: the most.
        kernel: names the kernel, the device, and what its need depends on, for the next launch and for the message.

    Raises:
        MemoryError: not even one iteration fits.
    """
    stages = _fitting.get(kernel, stages) if _fitting else stages
    while True:
        try:
            launch(stages)
            return
        except triton.runtime.errors.OutOfResources as error:
            if stages == 1:
                raise MemoryError(f"{kernel} does not fit into a multiprocessor of this device: {error}") from error
            stages -= 1
            _fitting[kernel] = stages


@cache
def _capable(device: torch.device) -> bool:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return False
    _divide_memory_alike()
    return True


@cache
def _divide_memory_alike() -> None:
    """Have every Triton kernel that is loaded from now on divide L1 and shared memory in the same way.

    A multiprocessor must be idle to change the division. Under a kernel that started early it is not: programs that
    need more shared memory than their predecessors find no room there, and the others get all the work.
    """
    triton.knobs.runtime.kernel_load_end_hook.add(_prefer_shared_memory)


def _prefer_shared_memory(module: object, function: int, *rest: object) -> None:
    """Set CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT to 100 %; without it, kernels are merely slower."""
    ctypes.CDLL("libcuda.so.1").cuFuncSetAttribute(ctypes.c_void_p(function), ctypes.c_int(9), ctypes.c_int(100))
