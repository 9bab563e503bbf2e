"""Copies between host and device that nobody waits for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy a host array without waiting for it: pinned, in the order of the stream."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return pinned(tensor).to(device, non_blocking=True) if device.type == "cuda" else tensor


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
