"""Copies between host and device that nobody waits for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.generic]

TYPES = {"int32": torch.int32, "int64": torch.int64, "float32": torch.float32}
ALIGNED = 16  # bytes: kernels are compiled apart for addresses that are not multiples of it


def to_device(array: Array, device: torch.device) -> torch.Tensor:
    """Copy a host array without waiting for it: pinned, in the order of the stream."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return pinned(tensor).to(device, non_blocking=True) if device.type == "cuda" else tensor


class Parcel:
    """Arrays that go to the device together: one pinned buffer, one copy, that nobody waits for."""

    def __init__(self) -> None:
        self._parts: list[Array | Sequence[Array]] = []
        self._sent: list[torch.Tensor] = []

    def add(self, part: Array | Sequence[Array]) -> int:
        """Take an array, or rows that are to be one; gives the number by which it is found on the device.

        What it holds is read when the parcel is sent.
        """
        self._parts.append(part)
        return len(self._parts) - 1

    def send(self, device: torch.device) -> None:
        """Copy all parts, each to an address that is a multiple of ``ALIGNED``."""
        shapes = [part.shape if isinstance(part, np.ndarray) else (len(part), *part[0].shape) for part in self._parts]
        types = [part.dtype if isinstance(part, np.ndarray) else part[0].dtype for part in self._parts]
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, types, strict=True)]
        begins = [0, *accumulate(-(-size // ALIGNED) * ALIGNED for size in sizes)]
        host = torch.empty(begins[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
        memory = host.numpy()
        for part, shape, dtype, begin in zip(self._parts, shapes, types, begins, strict=False):
            view = np.ndarray(shape, dtype, memory, begin)
            if isinstance(part, np.ndarray):
                np.copyto(view, part)  # not torch's: it would wake its threads for a larger one, which then spin
            else:
                np.stack(part, out=view)
        there = host.to(device, non_blocking=True)
        typed = {dtype: there.view(TYPES[dtype.name]) for dtype in set(types)}
        self._sent = [
            typed[dtype].as_strided(
                shape, [math.prod(shape[i + 1 :]) for i in range(len(shape))], begin // dtype.itemsize
            )
            for shape, dtype, begin in zip(shapes, types, begins, strict=False)
        ]

    def __getitem__(self, number: int) -> torch.Tensor:
        """A part on the device."""
        return self._sent[number]


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that the device can read. By NumPy: torch would wake all its threads for a larger one, which then spin."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    np.copyto(host.numpy(), tensor.numpy())
    return host


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Copy to the host without waiting; the copy may be read once an event after it has passed. A tensor that is on the
    host is given back itself."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
