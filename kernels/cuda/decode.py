# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Attention of one query token per sequence over the paged cache, spread evenly over the device.

The keys of a sequence are cut into pieces of fixed size. The tiles of all pieces stand in one list, of which a fixed
number of programs take equal shares, whole pieces each, so that a batch of mixed lengths is balanced and a captured
graph fits every batch. Another kernel merges the pieces of a (sequence, kv head) in their order (flash decoding, Dao et
al. 2023, but with a number of pieces that depends on nothing but the length).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.cuda.decode_plan import DecodePlan
from kernels.cuda.device import multiprocessors
from kernels.cuda.geometry import Geometry
from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier, with_stages
from kernels.cuda.numerics import PIECE
from kernels.cuda.paged import paged_keys
from kernels.cuda.softmax import (
    load_tile,
    merge_piece,
    rows_before,
    soft_cap,
    store_piece,
    tile_weights,
    visible_keys,
)
from kernels.kv_cache import LayerCache

ONES = 16  # rows of the block of ones that sums the denominator; all come out equal


def query_rows(group: int) -> int:
    """Query rows per program: a group's heads, padded to a tensor-core tile; results do not depend on it.

    Tiles of 8 leave keys in registers after one read: one buffer serves, and more programs fit on a multiprocessor.
    """
    return max(8, int(triton.next_power_of_2(group)))


def shape(head_dim: int, rows: int, copied: bool) -> tuple[int, int, int]:
    """(warps and loop stages of a program, programs per multiprocessor) by speed on an H200; results are the same."""
    if head_dim > 128:
        return 4, 3, 1
    if rows > 8:
        return 4, 3, 5 if head_dim <= 64 else 2
    if head_dim <= 64:
        return 2, 3, 6
    return (4, 4, 4) if copied else (2, 3, 8)


@triton.jit
def _load_piece(tops, totals, sums, slot, end_slot, heads, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, mask, dim):
    """Maximum [ROWS], denominator [ROWS] and weighted sum [ROWS, DIM] of one piece for the given heads [ROWS]."""
    there = mask & (slot < end_slot)
    index = (slot * HEADS + heads).to(tl.int64)
    top = tl.load(tops + index, mask=there, other=float("-inf"))
    total = tl.load(totals + index, mask=there, other=0.0)
    offset = (index * HEAD_DIM)[:, None] + dim[None, :]
    return top, total, tl.load(sums + offset, mask=there[:, None] & (dim < HEAD_DIM)[None, :], other=0.0)


@triton.jit
def _merge_kernel(
    starts, tops, totals, sums, out,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Merge the pieces of one (sequence, kv head) in their order; a single piece has been written already."""
    wait_for_earlier(EARLY)
    sequence, head = tl.program_id(0), tl.program_id(1) * GROUP
    slot, end_slot = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    if end_slot - slot < 2:
        return
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    live = row < GROUP
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS, 1], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    for s in tl.range(slot, end_slot, 4):  # four at a time are on their way; one that is not there changes nothing
        top0, total0, acc0 = _load_piece(tops, totals, sums, s, end_slot, head + row, HEADS, HEAD_DIM, live, dim)
        top1, total1, acc1 = _load_piece(tops, totals, sums, s + 1, end_slot, head + row, HEADS, HEAD_DIM, live, dim)
        top2, total2, acc2 = _load_piece(tops, totals, sums, s + 2, end_slot, head + row, HEADS, HEAD_DIM, live, dim)
        top3, total3, acc3 = _load_piece(tops, totals, sums, s + 3, end_slot, head + row, HEADS, HEAD_DIM, live, dim)
        top, total, acc = merge_piece(top, total, acc, top0, total0[:, None], acc0)
        top, total, acc = merge_piece(top, total, acc, top1, total1[:, None], acc1)
        top, total, acc = merge_piece(top, total, acc, top2, total2[:, None], acc2)
        top, total, acc = merge_piece(top, total, acc, top3, total3[:, None], acc3)
    offset = ((sequence.to(tl.int64) * HEADS + head + row) * HEAD_DIM)[:, None] + dim[None, :]
    mask = live[:, None] & (dim < HEAD_DIM)[None, :]
    tl.store(out + offset, (acc / total).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _finish_piece(
    starts, tops, totals, sums, out, record, head, top, total, acc, mask,
    GROUP: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write the result of a sequence of one piece; else keep the piece for the merge."""
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    sequence, slot = tl.load(record), tl.load(record + 3)
    if tl.load(starts + sequence + 1) - tl.load(starts + sequence) == 1:
        offset = ((sequence.to(tl.int64) * HEADS + head + row) * HEAD_DIM)[:, None] + dim[None, :]
        tl.store(out + offset, (acc / total[:, None]).to(out.dtype.element_ty), mask=mask)
    else:
        index = (slot * HEADS + head + row).to(tl.int64)
        store_piece(tops, totals, sums, top, total, acc, index, row < GROUP, dim, HEAD_DIM)


@triton.jit
def _piece_start(tiles, tile, count, TILE: tl.constexpr, PIECE_: tl.constexpr):
    """The first tile of the list, from ``tile`` on, with which a piece begins; ``count`` is their end."""
    first = tl.load(tiles + tile * 4 + 1, mask=tile < count, other=0)
    context = tl.load(tiles + tile * 4 + 2, mask=tile < count, other=0)
    into = first % PIECE_
    left = tl.minimum((context - first + TILE - 1) // TILE, (PIECE_ - into) // TILE)
    return tl.where(into == 0, tile, tile + left)


@triton.jit
def _decode_kernel(
    query,  # [sequences, heads, head_dim]
    keys,  # [blocks, block_size, kv_heads, head_dim]
    values,
    tables,  # [sequences, blocks] int32
    tiles, starts, counts, tops, totals, sums,
    out,  # [sequences, heads, head_dim]
    query_stride, table_stride, scale, scale_log2, cap, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, PIECE_: tl.constexpr, ONES_: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, COPIED: tl.constexpr, STAGES_: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """All tiles of this program in one loop: the next piece's keys are on their way while one ends."""
    wait_for_earlier(EARLY)
    HEADS: tl.constexpr = KV_HEADS * GROUP
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    lane = tl.arange(0, TILE)
    mask = (row < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
    ones = tl.full([ONES_, TILE], 1.0, query.dtype.element_ty)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ONES_, ROWS], tl.float32)
    acc = tl.zeros([DIM, ROWS], tl.float32)
    kv_head, share, shares = tl.program_id(0) % KV_HEADS, tl.program_id(0) // KV_HEADS, tl.num_programs(0) // KV_HEADS
    head = kv_head * GROUP
    count = tl.load(counts)
    begin = _piece_start(tiles, (count.to(tl.int64) * share // shares).to(tl.int32), count, TILE, PIECE_)
    end = _piece_start(tiles, (count.to(tl.int64) * (share + 1) // shares).to(tl.int32), count, TILE, PIECE_)
    for t in tl.range(begin, end, num_stages=STAGES_):
        record = tiles + t * 4
        sequence, first, context = tl.load(record), tl.load(record + 1), tl.load(record + 2)
        q_offset = (sequence.to(tl.int64) * query_stride + (head + row) * HEAD_DIM)[:, None] + dim[None, :]
        q = tl.load(query + q_offset, mask=mask, other=0.0)
        before = rows_before(first, context, TILE, COPIED)
        k, v = load_tile(
            keys, values, tables + sequence.to(tl.int64) * table_stride, first, context, before, kv_head,
            KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, TILE, COPIED,
        )  # fmt: skip
        scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # [keys, rows]
        scale_ = scale_log2
        if CAPPED:
            scores = soft_cap(scores, scale, cap)
            scale_ = 1.4426950408889634
        visible = visible_keys(first - before + lane, context - 1 + row * 0, window, WINDOWED)
        if COPIED:
            visible = visible & (lane >= before)[:, None]
        scores = tl.where(visible, scores, float("-inf"))
        begins = first % PIECE_ == 0
        ends = ((first + TILE) % PIECE_ == 0) | (first + TILE >= context)
        top = tl.where(begins, float("-inf"), top)
        top, weights, decay = tile_weights(scores, top, scale_, KEY_AXIS=0)
        weights = weights.to(v.dtype)
        acc = tl.dot(tl.trans(v), weights, tl.where(begins, 0.0, acc * decay), input_precision="ieee")
        total = tl.dot(ones, weights, tl.where(begins, 0.0, total * decay), input_precision="ieee")
        # Named outside of the branch, so that the compiler waits for the tensor cores before it.
        done, denominators = tl.trans(acc), tl.trans(total)
        if ends:
            _finish_piece(
                starts, tops, totals, sums, out, record, head, top, tl.max(denominators, 1), done, mask,
                GROUP, HEADS, HEAD_DIM, DIM, ROWS,
            )  # fmt: skip


def decode_attention(
    query: torch.Tensor,
    cache: LayerCache,
    block_tables: torch.Tensor,
    plan: DecodePlan,
    scale: float,
    softcap: float,
    out: torch.Tensor,
) -> None:
    """Attention of each sequence's last token; fit for capture in a CUDA graph.

    Args:
        query: [sequences, heads, head_dim], heads contiguous.
        cache: the layer's keys and values, this step's included.
        block_tables: [sequences, blocks] int32.
        plan: filled by ``plan_decode`` in this step, and its shared pieces by ``shared_prefix_attention`` before.
        scale: factor of the scores.
        softcap: scores become softcap * tanh(score / softcap); 0 for none.
        out: [sequences, heads, head_dim] contiguous; rows whose context is 0 are left as they are.
    """
    geometry, sequences = Geometry.of(query, cache.keys), query.shape[0]
    heads, kv_heads, head_dim, group = geometry.heads, geometry.kv_heads, geometry.head_dim, geometry.group
    rows, early = query_rows(group), launch_arguments(starts_early(query.device))
    paged = paged_keys(query, cache, scale, softcap, plan.window)
    warps, stages, per_sm = shape(head_dim, rows, paged.copied)
    most = sequences * -(-block_tables.shape[1] * cache.block_size // PIECE)  # pieces that such tables can hold
    shares = min(most, plan.sums.shape[0], max(multiprocessors(query.device) * per_sm // kv_heads, 1))
    scratch = (plan.tops, plan.totals, plan.sums)
    with_stages(
        lambda stages: _decode_kernel[(shares * kv_heads,)](
            query, paged.keys, paged.values, block_tables, plan.tiles, plan.starts, plan.counts, *scratch, out,
            query.stride(0), block_tables.stride(0), *paged.scores, **paged.sizes, ROWS=rows, ONES_=ONES,
            STAGES_=stages, num_warps=warps, **early,
        ),
        stages, ("decode attention", query.device, geometry),
    )  # fmt: skip
    _merge_kernel[(sequences, kv_heads)](
        plan.starts, *scratch, out, HEADS=heads, GROUP=group, HEAD_DIM=head_dim, ROWS=triton.next_power_of_2(group),
        DIM=triton.next_power_of_2(head_dim), num_warps=4, **early,
    )  # fmt: skip
