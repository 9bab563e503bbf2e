# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Gated activations: f(gate) * up, element by element."""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl

from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier

Activation = Literal["silu", "gelu_tanh", "gelu"]
KINDS: dict[str, int] = {"silu": 0, "gelu_tanh": 1, "gelu": 2}
BLOCK = 1024


@triton.jit
def activate(x, KIND: tl.constexpr):
    """SiLU (0), GELU by its tanh approximation (1), or GELU (2) of float32 x (Hendrycks and Gimpel 2016)."""
    if KIND == 0:
        return x / (1.0 + tl.exp(-x))
    if KIND == 1:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        return x / (1.0 + tl.exp(-2.0 * inner))  # 0.5 * (1 + tanh(inner)) is the logistic function of 2 * inner
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _gated_kernel(gate_up, out, SIZE: tl.constexpr, KIND: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr):
    wait_for_earlier(EARLY)
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    mask = i < SIZE
    gate = tl.load(gate_up + row * (2 * SIZE) + i, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * (2 * SIZE) + SIZE + i, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + i, (activate(gate, KIND) * up).to(out.dtype.element_ty), mask=mask)


def gated(gate_up: torch.Tensor, kind: Activation, out: torch.Tensor | None = None) -> torch.Tensor:
    """f(gate) * up for gate_up [tokens, 2 * n] contiguous, gate first; returns [tokens, n]."""
    tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(tokens, size) if out is None else out
    if tokens:
        grid = (tokens, triton.cdiv(size, BLOCK))
        _gated_kernel[grid](
            gate_up, out, SIZE=size, KIND=KINDS[kind], WIDTH=BLOCK, num_warps=4,
            **launch_arguments(starts_early(gate_up.device)),
        )  # fmt: skip
    return out
