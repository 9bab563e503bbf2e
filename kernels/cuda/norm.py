# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Residual addition and RMSNorm in one pass: one program per row, whose sum has one order per hidden size."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier


@triton.jit
def _add_rms_norm_kernel(
    x, residual, weight, out, eps, x_stride, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    mask = i < HIDDEN
    factor = tl.load(weight + i, mask=mask, other=0.0).to(tl.float32)
    wait_for_earlier(EARLY)
    wide = tl.load(x + row * x_stride + i, mask=mask, other=0.0).to(tl.float32)
    wide += tl.load(residual + row * HIDDEN + i, mask=mask, other=0.0).to(tl.float32)
    narrow = wide.to(residual.dtype.element_ty)
    tl.store(residual + row * HIDDEN + i, narrow, mask=mask)
    wide = narrow.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / HIDDEN + eps)
    tl.store(out + row * HIDDEN + i, (wide * inverse * factor).to(out.dtype.element_ty), mask=mask)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """residual += x, rounded to the residual's type; then residual / rms(residual) * weight.

    Args:
        x: [tokens, hidden], rows contiguous.
        residual: [tokens, hidden] contiguous, updated in place.
        weight: [hidden].
        eps: added to the mean square.
        out: [tokens, hidden] contiguous; allocated in x's dtype if None.
    """
    out = torch.empty_like(residual, dtype=x.dtype) if out is None else out
    hidden = x.shape[1]
    block = triton.next_power_of_2(hidden)
    if x.shape[0]:
        _add_rms_norm_kernel[(x.shape[0],)](
            x, residual, weight, out, eps, x.stride(0), HIDDEN=hidden, BLOCK=block, num_warps=warps(block),
            **launch_arguments(starts_early(x.device)),
        )  # fmt: skip
    return out


def warps(block: int) -> int:
    """Warps per row, up to 16 values a thread. Part of the order of summation: a function of the row's length alone."""
    return min(max(block // 512, 1), 16)
