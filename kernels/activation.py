"""The gated activation of Llama-like feed-forward layers (Shazeer 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up.

    Args:
        gate_up: [tokens, 2 * n], gate first.

    Returns:
        [tokens, n] in the same dtype
    """
    if gate_up.device.type != "cpu":
        return reference(gate_up)
    from kernels.cpu import activation as cpu
    from kernels.cpu.numeric import array, use_threads

    out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
    use_threads(out.numel(), per_thread=8192)
    cpu.silu_mul(array(gate_up), array(out))
    return out


def reference(gate_up: torch.Tensor) -> torch.Tensor:
    """The same in torch, in float32."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)
