"""Moves a model's tensors between devices."""

from __future__ import annotations

from typing import Any

import torch

OWN = ("engine.", "kernels.")  # modules whose objects hold tensors


def move_tensors(model: Any, device: torch.device) -> None:
    """Put every tensor that ``model`` holds, however deep, on ``device``, in place; shared tensors stay shared."""
    _moved(model, device, {})


def _moved(value: Any, device: torch.device, seen: dict[int, tuple[Any, Any]]) -> Any:
    """``value`` with its tensors moved; ``seen`` keeps what came before, with the original so that ids stay taken."""
    if id(value) in seen:
        return seen[id(value)][1]
    if isinstance(value, torch.Tensor):
        moved: Any = value.to(device)
    elif isinstance(value, tuple):
        parts = [_moved(one, device, seen) for one in value]
        moved = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    elif isinstance(value, list):
        value[:] = [_moved(one, device, seen) for one in value]
        moved = value
    elif isinstance(value, dict):
        value.update({key: _moved(one, device, seen) for key, one in value.items()})
        moved = value
    elif type(value).__module__.startswith(OWN) and hasattr(value, "__dict__"):
        seen[id(value)] = value, value
        for name, one in vars(value).items():
            object.__setattr__(value, name, _moved(one, device, seen))  # layers are frozen to everybody else
        return value
    else:
        return value
    seen[id(value)] = value, moved
    return moved
