# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The two look-ups around a step, one launch each: a decode step of one sequence has no time for twenty."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.step_inputs import RequestRows, RowInputs, TokenInputs

ROWS = 128  # rows per program
ALIGNED = 4  # numbers; columns begin at multiples, as kernels are compiled anew for pointers that are less aligned


@triton.jit(do_not_specialize=["capacity"])
def _token_kernel(
    positions, owners, ids, decoding, tables, last, tokens, slots, contexts, decode_tables, padding, width, capacity,
    BLOCK_SIZE: tl.constexpr, WIDTH: tl.constexpr, MIXED: tl.constexpr,
):  # fmt: skip
    """One token: its id, its slot, and, where it may decode, its context and block table."""
    i = tl.program_id(0)
    owner, position = tl.load(owners + i), tl.load(positions + i)
    used = owner < padding
    table = tables + owner.to(tl.int64) * width
    token = tl.load(last + owner)
    decodes = used
    if MIXED:
        given = tl.load(ids + i)
        token = tl.where(given < 0, token, given.to(tl.int64))
        decodes = i < tl.load(decoding)
    block = tl.load(table + position // BLOCK_SIZE).to(tl.int64)
    tl.store(tokens + i, tl.where(used, token, 0))
    tl.store(slots + i, tl.where(used, block * BLOCK_SIZE + position % BLOCK_SIZE, -1))
    if i < capacity:
        tl.store(contexts + i, tl.where(decodes, position + 1, 0))
        used_width = tl.where(decodes, position // BLOCK_SIZE + 1, 0)
        for first in range(0, used_width, WIDTH):
            n = first + tl.arange(0, WIDTH)
            blocks = tl.load(table + n, mask=n < used_width, other=0)
            tl.store(decode_tables + i.to(tl.int64) * width + n, blocks, mask=n < used_width)


@triton.jit(do_not_specialize=["count", "stride"])
def _row_kernel(
    positions, owners, ends, seeds, top_k, floats, at, mine, row_floats, row_top_k, row_seeds, row_positions, count,
    stride, padding, GATHERED: tl.constexpr, ROWS_: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS_ + tl.arange(0, ROWS_)
    live = row < count
    end = row
    if GATHERED:
        end = tl.load(ends + row, mask=live, other=0)
    token = tl.maximum(end, 0)
    owner = tl.where(end >= 0, tl.load(owners + token, mask=live, other=0), padding)
    tl.store(at + row, token.to(tl.int64), mask=live)
    tl.store(mine + row, owner.to(tl.int64), mask=live)
    for column in tl.static_range(3):
        value = tl.load(floats + column * (padding + 1) + owner, mask=live, other=0.0)
        tl.store(row_floats + column * stride + row, value, mask=live)
    tl.store(row_top_k + row, tl.load(top_k + owner, mask=live, other=0), mask=live)
    tl.store(row_seeds + row, tl.load(seeds + owner, mask=live, other=0), mask=live)
    position = tl.load(positions + token, mask=live, other=0)
    tl.store(row_positions + row, position.to(tl.int64) + 1, mask=live)


def aligned(count: int) -> int:
    """Room for so many numbers, up to where the next column begins."""
    return -(-count // ALIGNED) * ALIGNED


def token_inputs(
    rows: RequestRows,
    positions: torch.Tensor,
    owners: torch.Tensor,
    ids: torch.Tensor | None,
    decoding: torch.Tensor | None,
    capacity: int,
    block_size: int,
) -> TokenInputs:
    """``kernels.step_inputs.token_inputs``; entries of tables past a context are left as they are."""
    count, width = positions.shape[0], rows.tables.shape[1]
    tokens = torch.empty(count, dtype=torch.int64, device=positions.device)
    slots = torch.empty_like(tokens)
    contexts = torch.empty(capacity, dtype=torch.int32, device=positions.device)
    tables = torch.empty(capacity, width, dtype=torch.int32, device=positions.device)
    unread = positions
    _token_kernel[(count,)](
        positions, owners, unread if ids is None else ids, unread if decoding is None else decoding, rows.tables,
        rows.last, tokens, slots, contexts, tables, rows.last.shape[0] - 1, width, capacity,
        BLOCK_SIZE=block_size, WIDTH=128, MIXED=ids is not None, num_warps=1,
    )  # fmt: skip
    return TokenInputs(tokens, slots, contexts, tables)


def row_inputs(
    rows: RequestRows, positions: torch.Tensor, owners: torch.Tensor, ends: torch.Tensor | None
) -> RowInputs:
    """``kernels.step_inputs.row_inputs``."""
    device, count = positions.device, (owners if ends is None else ends).shape[0]
    stride = aligned(count)
    at, mine, seeds, draws = torch.empty(4, stride, dtype=torch.int64, device=device)[:, :count]
    floats = torch.empty(3, stride, device=device)[:, :count]
    top_k = torch.empty(count, dtype=torch.int32, device=device)
    _row_kernel[(triton.cdiv(count, ROWS),)](
        positions, owners, owners if ends is None else ends, rows.seeds, rows.top_k, rows.floats, at, mine, floats,
        top_k, seeds, draws, count, stride, rows.last.shape[0] - 1, GATHERED=ends is not None, ROWS_=ROWS, num_warps=4,
    )  # fmt: skip
    temperature, top_p, min_p = floats
    return RowInputs(at, mine, temperature, top_k, top_p, min_p, seeds, draws)
