# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The product of a few rows with a weight matrix in Triton, equal to cuBLAS without split-K to the bit.

A decode step reads every weight once and computes little: what counts is that all multiprocessors keep enough bytes on
their way. K is walked in order, as in cuBLAS, so the chain of tensor-core steps bounds a program from below; narrow
programs, and many of them, hide it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from kernels.cuda.activation import KINDS, Activation, activate
from kernels.cuda.device import multiprocessors
from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier, with_stages

MAX_ROWS = 64  # above, cuBLAS is at least as fast
AHEAD_BYTES = 4 << 20  # of a matrix, fetched into L2 while the kernel before runs
NARROW = 48  # outputs per multiprocessor, up to which the number of programs is what is short
AT_ONCE = (
    256  # outputs per multiprocessor, up to which all programs run at once: later ones have nothing to fetch ahead
)


@dataclass(frozen=True)
class Tile:
    """How a program cuts its part of the product; results do not depend on it."""

    columns: int  # outputs per program
    depth: int  # of K per step
    stages: int  # steps on their way
    warps: int
    rows: int  # padded rows of x
    weights_first: bool  # weights are the rows of the tensor cores' product, x its columns


@triton.jit
def _fetch_ahead(weight, lines, part, K, size):
    """Ask for ``size`` bytes of each of these lines of the weight, from part * size on, to be brought into L2."""
    address = (weight + lines.to(tl.int64) * K + part * (size // 2)).to(tl.int64)
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;", "=r,l,r", [address, part * 0 + size],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def _line(column, N, GATED: tl.constexpr):
    """The weight's row behind an output column; a gate and its factor are neighbours."""
    if GATED:
        return column % 2 * (N // 2) + column // 2
    return column


@triton.jit(do_not_specialize=["rows"])
def _linear_kernel(
    x,  # [rows, K]
    weight,  # [N, K]
    bias,  # [N], read only if BIASED
    out,  # [rows, N], or [rows, N / 2] if GATED
    rows,
    x_stride,
    N,
    K,
    ahead,  # bytes of each line of the weight that each of LANES // COLUMNS threads fetches early
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES_: tl.constexpr,
    WEIGHTS_FIRST: tl.constexpr,
    WHOLE: tl.constexpr,  # K is a multiple of DEPTH
    BIASED: tl.constexpr,
    GATED: tl.constexpr,
    KIND: tl.constexpr,
    EARLY: tl.constexpr,
    FETCHED: tl.constexpr,
    LANES: tl.constexpr,
):
    """All rows by COLUMNS outputs, K in order."""
    first = tl.program_id(0) * COLUMNS
    if FETCHED:
        lane = tl.arange(0, LANES)
        _fetch_ahead(weight, _line(tl.minimum(first + lane % COLUMNS, N - 1), N, GATED), lane // COLUMNS, K, ahead)
    wait_for_earlier(EARLY)
    column = first + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    k = tl.arange(0, DEPTH)
    weights = weight + _line(tl.minimum(column, N - 1), N, GATED).to(tl.int64)[:, None] * K + k[None, :]
    inputs = x + row.to(tl.int64)[:, None] * x_stride + k[None, :]
    acc = tl.zeros([COLUMNS, ROWS], tl.float32) if WEIGHTS_FIRST else tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, K, DEPTH, num_stages=STAGES_):
        if WHOLE:
            w = tl.load(weights + start)
            v = tl.load(inputs + start, mask=(row < rows)[:, None], other=0.0)
        else:
            there = (k + start < K)[None, :]
            w = tl.load(weights + start, mask=there, other=0.0)
            v = tl.load(inputs + start, mask=(row < rows)[:, None] & there, other=0.0)
        if WEIGHTS_FIRST:
            acc = tl.dot(w, tl.trans(v), acc, input_precision="ieee")
        else:
            acc = tl.dot(v, tl.trans(w), acc, input_precision="ieee")
    if WEIGHTS_FIRST:
        acc = tl.trans(acc)
    if BIASED:
        acc += tl.load(bias + _line(column, N, GATED), mask=column < N, other=0.0).to(tl.float32)[None, :]
    if GATED:
        gate, up = tl.split(tl.reshape(acc.to(x.dtype.element_ty).to(tl.float32), [ROWS, COLUMNS // 2, 2]))
        pair = tl.program_id(0) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
        offset = row.to(tl.int64)[:, None] * (N // 2) + pair[None, :]
        mask = (row < rows)[:, None] & (pair < N // 2)[None, :]
        tl.store(out + offset, (activate(gate, KIND) * up).to(out.dtype.element_ty), mask=mask)
    else:
        offset = row.to(tl.int64)[:, None] * N + column[None, :]
        tl.store(out + offset, acc.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (column < N)[None, :])


def tile_for(rows: int, columns: int, depth: int, sms: int) -> Tile:
    """A tile by the number of outputs that fall to a multiprocessor, from sweeps over whole layers on an H200.

    Few outputs make few programs: those are narrow, and fetch far ahead. Many outputs make programs enough. Up to 16
    rows the wider programs of a row or two per multiprocessor feed the large tensor-core instruction (64 outputs).
    """
    each = columns / sms
    if rows <= 16:
        padded = 8 if rows <= 8 else 16
        steps = ((16, Tile(16, 512, 6, 2, 16, False)), (NARROW, Tile(64, 256, 5, 4, 16, True)))
        widest = Tile(32, 128, 3, 2, padded, True)
    else:
        padded = int(triton.next_power_of_2(rows))
        steps = ((16, Tile(16, 128, 6, 4, 64, False)), (32, Tile(32, 128, 6, 4, 64, False)))
        widest = Tile(64, 128, 6, 4, padded, True) if each <= NARROW else Tile(128, 64, 6, 4, padded, True)
    tile = next((tile for limit, tile in steps if each <= limit), widest)
    step, stages = tile.depth, tile.stages
    while depth % step and step > 64:
        step, stages = step // 2, min(2 * stages, 8)
    return replace(tile, depth=step, stages=stages)


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    gate: Activation | None,
    tile: Tile | None = None,
) -> None:
    """out = x @ weight.T + bias, or the gated activation of its halves; arguments as in ``gemm.skinny_linear``."""
    rows, depth = x.shape
    columns = weight.shape[0]
    sms = multiprocessors(x.device)
    tile = tile or tile_for(rows, columns, depth, sms)
    early = starts_early(x.device)
    lanes = max(32 * tile.warps, tile.columns)
    ahead = fetched_ahead(weight, lanes // tile.columns) if early and columns <= AT_ONCE * sms else 0
    with_stages(
        lambda stages: _linear_kernel[(triton.cdiv(columns, tile.columns),)](
            x, weight, weight if bias is None else bias, out, rows, x.stride(0), columns, depth, ahead,
            ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, STAGES_=stages, WEIGHTS_FIRST=tile.weights_first,
            WHOLE=depth % tile.depth == 0, BIASED=bias is not None, GATED=gate is not None,
            KIND=0 if gate is None else KINDS[gate], FETCHED=ahead > 0, LANES=lanes, num_warps=tile.warps,
            **launch_arguments(early),
        ),
        tile.stages, ("the product of a few rows", x.device, tile),
    )  # fmt: skip


def fetched_ahead(weight: torch.Tensor, parts: int) -> int:
    """Bytes of a weight's line that each of ``parts`` threads fetches early; lines and parts begin at 16 bytes."""
    columns, depth = weight.shape
    if weight.data_ptr() % 16 or depth % 8:
        return 0
    return int(min(depth * 2, AHEAD_BYTES // columns) // (16 * parts) * 16)
