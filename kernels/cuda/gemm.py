# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Matrix products with weights: cuBLAS without split-K, and a Triton kernel for a few rows, equal to it to the bit.

Both add along K in order. A row's result then depends on neither the number of rows nor which of the two ran.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

MAX_ROWS = 64  # above, cuBLAS is at least as fast


def configure_batch_invariant_gemms() -> None:
    """Keep cuBLAS from splitting K. Its workspace stays: taking that away too costs 0.2 ms of the host per product."""
    torch.backends.cuda.preferred_blas_library("cublaslt")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = (False, False)


@triton.jit
def _linear_kernel(
    x,  # [rows, K]
    weight,  # [N, K]
    bias,  # [N], read only if BIASED
    out,  # [rows, N]
    rows,
    x_stride,
    N: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    BIASED: tl.constexpr,
    STAGES_: tl.constexpr,
):
    """All rows by COLUMNS outputs, K in order. Weights are the rows of the product where they fill the tensor cores."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    k = tl.arange(0, DEPTH)
    inside = column < N
    weights = weight + column.to(tl.int64)[:, None] * K + k[None, :]
    inputs = x + row.to(tl.int64)[:, None] * x_stride + k[None, :]
    acc = tl.zeros([COLUMNS, ROWS], tl.float32) if COLUMNS >= 64 else tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, K, DEPTH, num_stages=STAGES_):
        w = tl.load(weights + start, mask=inside[:, None] & (k + start < K)[None, :], other=0.0)
        v = tl.load(inputs + start, mask=(row < rows)[:, None] & (k + start < K)[None, :], other=0.0)
        if COLUMNS >= 64:
            acc = tl.dot(w, tl.trans(v), acc, input_precision="ieee")
        else:
            acc = tl.dot(v, tl.trans(w), acc, input_precision="ieee")
    if COLUMNS >= 64:
        acc = tl.trans(acc)
    if BIASED:
        acc += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    offset = row.to(tl.int64)[:, None] * N + column[None, :]
    tl.store(out + offset, acc.to(out.dtype.element_ty), mask=(row < rows)[:, None] & inside[None, :])


def tile(rows: int, columns: int) -> tuple[int, int, int, int]:
    """(outputs, depth, stages, warps) per program, by benchmarks/kernels.py on an H200; results do not depend on it."""
    if columns >= 16384:
        return (128, 64, 6, 4) if rows > 16 else (64, 128, 4, 4)
    return (32, 256, 4, 4) if rows > 16 else (64, 128, 6, 4)


def skinny_pays(rows: int, columns: int, depth: int) -> bool:
    """Whether ``skinny_linear`` was faster than cuBLAS at such a size (docs/performance_kernels.md)."""
    if depth < 1024:
        return False
    return (rows <= 16 and columns > depth) or (rows <= MAX_ROWS and columns >= 100_000)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [rows, K] @ weight.T [N, K] + bias, by whichever kernel is faster; both give the same bits without a bias."""
    if bias is None and x.dtype == weight.dtype == torch.bfloat16 and skinny_pays(x.shape[0], *weight.shape):
        return skinny_linear(x, weight)
    return F.linear(x, weight, bias)


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
    rows, depth = x.shape
    columns = weight.shape[0]
    if rows > MAX_ROWS:
        raise ValueError(f"rows={rows} is not allowed: skinny_linear takes at most {MAX_ROWS}")
    out = x.new_empty(rows, columns) if out is None else out
    if rows:
        outputs, step, stages, warps = tile(rows, columns)
        _linear_kernel[(triton.cdiv(columns, outputs),)](
            x,
            weight,
            weight if bias is None else bias,
            out,
            rows,
            x.stride(0),
            N=columns,
            K=depth,
            ROWS=max(16, triton.next_power_of_2(rows)),
            COLUMNS=outputs,
            DEPTH=step,
            BIASED=bias is not None,
            STAGES_=stages,
            num_warps=warps,
        )
    return out
