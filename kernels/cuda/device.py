"""What kernels need to know of the device."""

from __future__ import annotations

from functools import cache

import torch

INTERPRETED_SMS = 2  # under Triton's interpreter; few, so that a program takes several units of work in tests


@cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a CUDA device; a small constant for the CPU, where the interpreter runs kernels."""
    if device.type != "cuda":
        return INTERPRETED_SMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def copies_tiles(device: torch.device) -> bool:
    """Whether the device has a tile copy engine (TMA, compute capability 9.0); the interpreter imitates it."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)
