# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Attention over prefix blocks that several sequences share, read once for all of them (cascade, Ye et al. 2024).

A piece's result does not depend on who computes it: the common pieces are computed for many queries at once, into the
sequences' own scratch slots, and ``decode_attention`` merges them like any others. So the bits stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.cuda.decode_plan import DecodePlan, first_piece
from kernels.cuda.device import key_tiles, multiprocessors
from kernels.cuda.numerics import KEY_TILE, PIECE
from kernels.cuda.softmax import LOG2_E, load_tile, soft_cap, store_piece, tile_weights, visible_keys
from kernels.kv_cache import LayerCache

STAGES = 2
WARPS = 4
ONES = 16  # rows of the block of ones that sums the denominator; all come out equal
ROWS = 64  # query rows per program
PROGRAMS_PER_SM = 2


@triton.jit
def _attend_piece(
    q,
    keys,
    values,
    table,
    kv_head,
    piece,
    end,
    last,
    scale,
    scale_log2,
    cap,
    window,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    PIECE_: tl.constexpr,
    ONES_: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
    COPIED: tl.constexpr,
    STAGES_: tl.constexpr,
):
    """q [DIM, ROWS] over the keys [piece * PIECE, end) of one block table; ``last`` [ROWS] is each row's own position.

    Keys are the rows of the products, and the few queries their columns: so keys fill the tensor cores, and each warp
    has its own keys. Returns maximum [ROWS], denominator [ROWS] and weighted sum [ROWS, DIM].
    """
    lane = tl.arange(0, TILE)
    ones = tl.full([ONES_, TILE], 1.0, q.dtype)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ONES_, ROWS], tl.float32)
    acc = tl.zeros([DIM, ROWS], tl.float32)
    for first in tl.range(piece * PIECE_, end, TILE, num_stages=STAGES_):
        k, v = load_tile(keys, values, table, first, end, kv_head, KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, TILE, COPIED)
        scores = tl.dot(k, q, input_precision="ieee")  # [keys, rows]
        scale_ = scale_log2
        if CAPPED:
            scores = soft_cap(scores, scale, cap)
            scale_ = 1.4426950408889634
        scores = tl.where(visible_keys(first + lane, last, window, WINDOWED), scores, float("-inf"))
        top, weights, decay = tile_weights(scores, top, scale_, KEY_AXIS=0)
        weights = weights.to(v.dtype)
        acc = tl.dot(tl.trans(v), weights, acc * decay, input_precision="ieee")
        total = tl.dot(ones, weights, total * decay, input_precision="ieee")
    return top, tl.max(total, 0), tl.trans(acc)


@dataclass(frozen=True)
class SharedPrefixes:
    """Which sequences share their leading blocks: built on the host when the batch changes, read on the device.

    Tensors have fixed capacity, so that a graph can be captured over them; ``counts`` says how much is in use.
    """

    items: torch.Tensor  # [capacity, 3] int32: first member, members, piece
    members: torch.Tensor  # [sequences] int32: sequences in use, those of one group together
    counts: torch.Tensor  # [1] int32: items in use
    pieces: torch.Tensor  # [sequences] int32: shared leading pieces of each sequence


def share_prefixes(
    groups: Sequence[tuple[Sequence[int], int]], sequences: int, capacity: int, group_size: int, device: torch.device
) -> SharedPrefixes:
    """Describe groups of sequences with common leading blocks.

    Args:
        groups: (sequences, tokens) with equal leading blocks for so many tokens; whole pieces of them are shared, and
            never the piece of a sequence's last token (pass at most context - 1 tokens).
        sequences: rows of the batch.
        capacity: items that fit; groups that no longer fit are left unshared.
        group_size: query heads per key head.
    """
    step = ROWS // group_size
    pieces = torch.zeros(sequences, dtype=torch.int32)
    items: list[tuple[int, int, int]] = []
    members: list[int] = []
    for group, tokens in groups:
        common = tokens // PIECE
        mine = [
            (len(members) + i, min(step, len(group) - i), p) for p in range(common) for i in range(0, len(group), step)
        ]
        if len(group) < 2 or len(items) + len(mine) > capacity:
            continue
        pieces[list(group)] = common
        items += mine
        members += group
    padded = torch.zeros(capacity, 3, dtype=torch.int32)
    padded[: len(items)] = torch.tensor(items, dtype=torch.int32).view(-1, 3)
    members += [0] * (sequences - len(members))
    rows = torch.tensor(members, dtype=torch.int32)
    count = torch.tensor([len(items)], dtype=torch.int32)
    return SharedPrefixes(padded.to(device), rows.to(device), count.to(device), pieces.to(device))


@triton.jit
def _shared_kernel(
    query, keys, values, tables, contexts, items, members, counts, starts, tops, totals, sums,
    query_stride, table_stride, scale, scale_log2, cap, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, PIECE_: tl.constexpr, ONES_: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, COPIED: tl.constexpr, STAGES_: tl.constexpr,
):  # fmt: skip
    """One (piece, up to ROWS // GROUP sequences, kv head) at a time, into the sequences' own scratch slots."""
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    work = tl.load(counts) * KV_HEADS
    for unit in tl.range(tl.program_id(0), work, tl.num_programs(0), num_stages=1):
        kv_head = unit % KV_HEADS
        item = items + unit // KV_HEADS * 3
        member, count, piece = tl.load(item), tl.load(item + 1), tl.load(item + 2)
        live = row // GROUP < count
        sequence = tl.load(members + member + row // GROUP, mask=live, other=0)
        context = tl.load(contexts + sequence, mask=live, other=0)
        first = first_piece(context, window, PIECE_)
        live = live & (piece >= first)
        head = kv_head * GROUP + row % GROUP
        q_offset = sequence.to(tl.int64) * query_stride + head * HEAD_DIM
        mask = live[:, None] & (dim < HEAD_DIM)[None, :]
        q = tl.trans(tl.load(query + q_offset[:, None] + dim[None, :], mask=mask, other=0.0))
        table = tables + tl.load(members + member).to(tl.int64) * table_stride
        top, total, acc = _attend_piece(
            q, keys, values, table, kv_head, piece, piece * PIECE_ + PIECE_, context - 1, scale, scale_log2, cap,
            window,
            KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, ROWS, TILE, PIECE_, ONES_, CAPPED, WINDOWED, COPIED, STAGES_,
        )  # fmt: skip
        slot = tl.load(starts + sequence, mask=live, other=0) + piece - first
        store_piece(
            tops, totals, sums, top, total, acc, slot.to(tl.int64) * (KV_HEADS * GROUP) + head, live, dim, HEAD_DIM
        )


def shared_prefix_attention(
    query: torch.Tensor,
    cache: LayerCache,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    prefixes: SharedPrefixes,
    plan: DecodePlan,
    scale: float,
    softcap: float,
) -> None:
    """Compute the shared pieces once per group, into the plan's scratch; ``decode_attention`` then merges them.

    Arguments are those of ``decode_attention``; ``plan`` must have been filled with ``prefixes.pieces``.
    """
    heads, head_dim = query.shape[1:]
    kv_heads = cache.keys.shape[2]
    keys, values, copied = key_tiles(cache)
    programs = min(prefixes.items.shape[0] * kv_heads, multiprocessors(query.device) * PROGRAMS_PER_SM)
    _shared_kernel[(programs,)](
        query,
        keys,
        values,
        block_tables,
        context_lens,
        prefixes.items,
        prefixes.members,
        prefixes.counts,
        plan.starts,
        plan.tops,
        plan.totals,
        plan.sums,
        query.stride(0),
        block_tables.stride(0),
        scale,
        scale * LOG2_E,
        softcap,
        plan.window,
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        DIM=triton.next_power_of_2(head_dim),
        BLOCK_SIZE=cache.block_size,
        ROWS=ROWS,
        TILE=KEY_TILE,
        PIECE_=PIECE,
        ONES_=ONES,
        CAPPED=softcap > 0,
        WINDOWED=plan.window > 0,
        COPIED=copied,
        STAGES_=STAGES,
        num_warps=WARPS,
    )
