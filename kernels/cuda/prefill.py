# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Attention of many query tokens per sequence (prefill and its chunks) over the paged cache.

A tile of queries is one program per key head, which walks all their keys: a few queries behind a long context leave
most of the device idle. Such a tile is split along its keys (flash decoding, Dao et al. 2023): each piece of keys is a
program of its own, and another kernel merges the pieces in their order, as the one program would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.cuda.geometry import Geometry
from kernels.cuda.launch import with_stages
from kernels.cuda.numerics import PIECE
from kernels.cuda.paged import paged_keys
from kernels.cuda.query_rows import ONES, STAGES, attend_rows
from kernels.cuda.softmax import merge_piece, store_piece
from kernels.kv_cache import LayerCache

RECORD = 8  # int32 of a tile
SLOTS = 64  # pieces of split tiles in one step
LONG = 3 * PIECE  # keys up to which a tile is never split: the merge costs as much
PROGRAMS = 128  # that a large GPU runs side by side
MERGED_ROWS = 16  # query rows per program of the merge

Tile = tuple[int, int, int, int]  # sequence, first query token, query tokens, position of the first


@dataclass(frozen=True)
class SplitScratch:
    """Results of the pieces of split tiles: serves one layer after the other."""

    tops: torch.Tensor  # [SLOTS, kv_heads, rows] float32
    totals: torch.Tensor  # [SLOTS, kv_heads, rows] float32
    sums: torch.Tensor  # [SLOTS, kv_heads, rows, head_dim] float32


def allocate_split(geometry: Geometry, device: torch.device) -> SplitScratch:
    """Allocate scratch for the split tiles of a step: 64 MiB for 8 key heads of 128."""
    shape = (SLOTS, geometry.kv_heads, geometry.prefill_rows)
    tops, totals = (torch.empty(shape, dtype=torch.float32, device=device) for _ in range(2))
    return SplitScratch(tops, totals, torch.empty(*shape, geometry.head_dim, dtype=torch.float32, device=device))


def prefill_tiles(
    query_starts: Sequence[int], context_lens: Sequence[int], geometry: Geometry, slots: int = 0
) -> torch.Tensor:
    """Cut the queries of a step into programs, longest first so that the last ones to start are short.

    Args:
        query_starts: sequence i owns query tokens query_starts[i]:query_starts[i + 1].
        context_lens: tokens of each sequence after this step; its queries are the last of them.
        geometry: the model's.
        slots: pieces of split tiles, at most; 0 splits none.

    Returns:
        [tiles, RECORD] int32 on the CPU: sequence, first query token, query tokens, position of the first, first key,
        end of the keys, scratch slot (-1: the tile is whole), and pieces to merge from that slot on (0: not the first
        of them). Those to merge come first.
    """
    tokens = geometry.prefill_tokens
    tiles: list[Tile] = []
    for i, context in enumerate(context_lens):
        start, stop = query_starts[i], query_starts[i + 1]
        for first in range(start, stop, tokens):
            tiles.append((i, first, min(tokens, stop - first), context - (stop - first)))
    tiles.sort(key=_keys, reverse=True)
    heads_of_tiles, others, slot = [], [], 0
    pieces = _pieces([_keys(tile) for tile in tiles], geometry.kv_heads, slots)
    for tile, count in zip(tiles, pieces, strict=False):
        end = -(-_keys(tile) // PIECE)
        first = end - count + 1  # pieces that the first program merges as they come
        heads_of_tiles.append((*tile, 0, first * PIECE, slot, count))
        others += [
            (*tile, piece * PIECE, min((piece + 1) * PIECE, _keys(tile)), slot + 1 + piece - first, 0)
            for piece in range(first, end)
        ]
        slot += count
    others += [(*tile, 0, _keys(tile), -1, 0) for tile in tiles[len(pieces) :]]
    others.sort(key=lambda record: record[5] - record[4], reverse=True)
    return torch.tensor(heads_of_tiles + others, dtype=torch.int32).view(-1, RECORD)


def _keys(tile: Tile) -> int:
    """Keys that the tile's last query sees."""
    return tile[2] + tile[3]


def _pieces(keys: Sequence[int], kv_heads: int, slots: int) -> list[int]:
    """Into how many pieces the leading tiles are split: those that would run on when all others have ended.

    ``keys`` are the tiles', descending.
    """
    even = 1.25 * sum(keys) * kv_heads / PROGRAMS
    long = min(sum(count > max(LONG, even) for count in keys), slots // 2)
    return [min(slots // long, -(-count // PIECE)) for count in keys[:long]]


@triton.jit
def _prefill_kernel(
    query,  # [tokens, heads, head_dim]
    keys,  # [blocks, block_size, kv_heads, head_dim]
    values,
    tables,  # [sequences, blocks] int32
    tiles,  # [tiles, RECORD] int32
    tops, totals, sums,
    out,  # [tokens, heads, head_dim]
    query_stride, table_stride, scale, scale_log2, cap, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, PIECE_: tl.constexpr, ONES_: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, COPIED: tl.constexpr, STAGES_: tl.constexpr, RECORD_: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """One record of ``prefill_tiles`` and one kv head."""
    kv_head = tl.program_id(0) % KV_HEADS
    tile = tiles + tl.program_id(0) // KV_HEADS * RECORD_
    sequence, token, count, position = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    row_token = row // GROUP
    row_position = position + row_token
    live = row_token < count
    q_offset = (token + row_token).to(tl.int64) * query_stride + (kv_head * GROUP + row % GROUP) * HEAD_DIM
    q_mask = live[:, None] & (dim < HEAD_DIM)[None, :]
    q = tl.load(query + q_offset[:, None] + dim[None, :], mask=q_mask, other=0.0)

    start, end = tl.load(tile + 4), tl.load(tile + 5)
    if WINDOWED:
        start = tl.maximum(start, tl.maximum(position - window + 1, 0) // TILE * TILE)
    top, total, acc = attend_rows(
        q, keys, values, tables + sequence.to(tl.int64) * table_stride, kv_head, start, end, row_position, position,
        position + count - 1, scale, scale_log2, cap, window,
        KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, ROWS, TILE, PIECE_, ONES_, True, CAPPED, WINDOWED, COPIED, STAGES_,
    )  # fmt: skip
    denominator = tl.max(total, 1)
    slot = -1
    if SPLIT:
        slot = tl.load(tile + 6)
    if slot < 0:
        o_offset = (token + row_token).to(tl.int64) * (KV_HEADS * GROUP) + kv_head * GROUP + row % GROUP
        result = (acc / denominator[:, None]).to(out.dtype.element_ty)
        tl.store(out + o_offset[:, None] * HEAD_DIM + dim[None, :], result, mask=q_mask)
    else:
        index = (slot.to(tl.int64) * KV_HEADS + kv_head) * ROWS + row  # type: ignore[attr-defined]
        store_piece(tops, totals, sums, top, denominator, acc, index, live, dim, HEAD_DIM)


@triton.jit
def _merge_kernel(
    tiles, tops, totals, sums, out,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr,
    MERGED_ROWS_: tl.constexpr, RECORD_: tl.constexpr,
):  # fmt: skip
    """Merge the pieces of one split tile, one kv head and some of its rows, in their order."""
    tile = tiles + tl.program_id(0) * RECORD_
    kv_head = tl.program_id(1)
    slot, pieces = tl.load(tile + 6), tl.load(tile + 7)
    token, count = tl.load(tile + 1), tl.load(tile + 2)
    row = tl.program_id(2) * MERGED_ROWS_ + tl.arange(0, MERGED_ROWS_)
    dim = tl.arange(0, DIM)
    live = row // GROUP < count
    mask = live[:, None] & (dim < HEAD_DIM)[None, :]
    top = tl.full([MERGED_ROWS_], float("-inf"), tl.float32)
    total = tl.zeros([MERGED_ROWS_, 1], tl.float32)
    acc = tl.zeros([MERGED_ROWS_, DIM], tl.float32)
    for piece in tl.range(0, pieces):
        index = ((slot.to(tl.int64) + piece) * KV_HEADS + kv_head) * ROWS + row
        piece_top = tl.load(tops + index, mask=live, other=float("-inf"))
        piece_total = tl.load(totals + index, mask=live, other=0.0)
        piece_acc = tl.load(sums + (index * HEAD_DIM)[:, None] + dim[None, :], mask=mask, other=0.0)
        top, total, acc = merge_piece(top, total, acc, piece_top, piece_total[:, None], piece_acc)
    offset = (token + row // GROUP).to(tl.int64) * (KV_HEADS * GROUP) + kv_head * GROUP + row % GROUP
    result = acc / tl.where(total > 0, total, 1.0)
    tl.store(out + offset[:, None] * HEAD_DIM + dim[None, :], result.to(out.dtype.element_ty), mask=mask & (pieces > 0))


def prefill_attention(
    query: torch.Tensor,
    cache: LayerCache,
    block_tables: torch.Tensor,
    tiles: torch.Tensor,
    scale: float,
    window: int,
    softcap: float,
    out: torch.Tensor,
    scratch: SplitScratch | None = None,
) -> None:
    """Causal attention of the query tokens that ``tiles`` names; other rows of ``out`` are left as they are.

    Args:
        query: [tokens, heads, head_dim], heads contiguous.
        cache: the layer's keys and values, this step's included.
        block_tables: [sequences, blocks] int32.
        tiles: [tiles, RECORD] int32 on the device, of ``prefill_tiles``; records of zeros do nothing.
        scale: factor of the scores.
        window: keys that a query sees, itself included; 0 for all.
        softcap: scores become softcap * tanh(score / softcap); 0 for none.
        out: [tokens, heads, head_dim] contiguous.
        scratch: for the pieces of split tiles; None where no tile is split.
    """
    if not tiles.shape[0]:
        return
    paged = paged_keys(query, cache, scale, softcap, window)
    geometry = Geometry.of(query, cache.keys)
    rows, kv_heads, head_dim = geometry.prefill_rows, geometry.kv_heads, geometry.head_dim
    split = (scratch.tops, scratch.totals, scratch.sums) if scratch is not None else (out, out, out)
    with_stages(
        lambda stages: _prefill_kernel[(tiles.shape[0] * kv_heads,)](
            query, paged.keys, paged.values, block_tables, tiles, *split, out, query.stride(0), block_tables.stride(0),
            *paged.scores, **paged.sizes, ROWS=rows, ONES_=ONES, STAGES_=stages, RECORD_=RECORD,
            SPLIT=scratch is not None, num_warps=rows // 16,
        ),
        STAGES, ("prefill attention", query.device, geometry),
    )  # fmt: skip
    if scratch is None:
        return
    most = min(SLOTS // 2, tiles.shape[0])  # split tiles; each has two pieces at least
    _merge_kernel[(most, kv_heads, rows // MERGED_ROWS)](
        tiles, *split, out, KV_HEADS=kv_heads, GROUP=geometry.group, HEAD_DIM=head_dim,
        DIM=int(triton.next_power_of_2(head_dim)), ROWS=rows, MERGED_ROWS_=MERGED_ROWS, RECORD_=RECORD, num_warps=4,
    )  # fmt: skip
