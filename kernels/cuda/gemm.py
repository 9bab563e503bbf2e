"""Matrix products with weights: cuBLAS without split-K, or for a few rows our own kernel, equal to it to the bit.

Both add along K in order. A row's result then depends on neither the number of rows nor which of the two ran.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels.cuda import skinny
from kernels.cuda.activation import Activation, gated
from kernels.cuda.options import kernel_options
from kernels.cuda.skinny import MAX_ROWS


def configure_batch_invariant_gemms() -> None:
    """Keep cuBLAS from splitting K. Its workspace stays: taking that away too costs 0.2 ms of the host per product."""
    torch.backends.cuda.preferred_blas_library("cublaslt")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = (False, False)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [rows, K] @ weight.T [N, K] + bias, by whichever kernel is faster; both give the same bits without a bias."""
    if bias is None and _ours(x, weight):
        return skinny_linear(x, weight)
    return F.linear(x, weight, bias)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kind: Activation) -> torch.Tensor:
    """f(gate) * up for [gate, up] = ``linear(x, weight, bias)``: [rows, N / 2], the same bits as in two steps."""
    if bias is None and kernel_options().fused_gate and _ours(x, weight):
        out = x.new_empty(x.shape[0], weight.shape[0] // 2)
        skinny.launch(x, weight, None, out, kind)
        return out
    return gated(linear(x, weight, bias), kind)


def _ours(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernel for a few rows serves."""
    fits = 0 < x.shape[0] <= MAX_ROWS and weight.shape[1] % 64 == 0 and weight.is_contiguous()
    return fits and x.dtype == weight.dtype == torch.bfloat16 and kernel_options().skinny_gemm


def skinny_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """x @ weight.T + bias for at most ``MAX_ROWS`` rows.

    Args:
        x: [rows, K], rows contiguous.
        weight: [N, K] contiguous.
        bias: [N] or None.
        out: [rows, N] contiguous, of any float type; allocated in x's dtype if None.
    """
    rows = x.shape[0]
    if rows > MAX_ROWS:
        raise ValueError(f"rows={rows} is not allowed: skinny_linear takes at most {MAX_ROWS}")
    out = x.new_empty(rows, weight.shape[0]) if out is None else out
    if rows:
        skinny.launch(x, weight, bias, out, None)
    return out
