"""The gated activations of Llama-like feed-forward layers (Shazeer 2020)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up.

    Args:
        gate_up: [tokens, 2 * n], gate first.

    Returns:
        [tokens, n] in the same dtype
    """
    if gate_up.is_cuda:
        from kernels.cuda import activation as cuda

        return cuda.gated(gate_up, "silu")
    from kernels.cpu import activation as cpu
    from kernels.cpu.numeric import array, use_threads

    out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
    use_threads(out.numel(), per_thread=8192)
    cpu.silu_mul(array(gate_up), array(out))
    return out


def gelu_mul(gate_up: torch.Tensor, approximate: Literal["tanh", "none"] = "tanh") -> torch.Tensor:
    """gelu(gate) * up; arguments and result as in ``silu_mul``."""
    if gate_up.is_cuda:
        from kernels.cuda import activation as cuda

        return cuda.gated(gate_up, "gelu_tanh" if approximate == "tanh" else "gelu")
    return gelu_reference(gate_up, approximate)


def gelu_reference(gate_up: torch.Tensor, approximate: Literal["tanh", "none"] = "tanh") -> torch.Tensor:
    """gelu(gate) * up in torch, in float32."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.gelu(gate, approximate=approximate) * up).to(gate_up.dtype)


def reference(gate_up: torch.Tensor) -> torch.Tensor:
    """The same in torch, in float32."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)
