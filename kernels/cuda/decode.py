# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
"""Attention of one query token per sequence over the paged cache, spread evenly over the device.

The keys of a sequence are cut into pieces of fixed size; a (piece, kv head) is one unit of work, and a fixed number of programs
takes them in turn, so that a batch of mixed lengths is balanced and a captured graph fits every batch. A second
kernel merges the pieces of a (sequence, kv head) in their order (flash decoding, Dao et al. 2023, with the split-count fixed by the
length alone). Sequences that share prefix blocks may have their common pieces computed together (cascade attention, Ye et al.
2024): a piece's result does not depend on who computes it, so the bits stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.cuda.device import key_tiles, multiprocessors
from kernels.cuda.numerics import KEY_TILE, PIECE
from kernels.cuda.softmax import LOG2_E, load_tile, merge_piece, soft_cap, tile_weights
from kernels.kv_cache import LayerCache

STAGES = 3
WARPS = 4
ONES = 16  # rows of the block of ones that sums the denominator; all come out equal
SHARED_ROWS = 64  # query rows of a shared-prefix program


def query_rows(group: int, copied: bool) -> int:
    """Query rows per program: a group's heads, padded to a tensor-core tile; results do not depend on it.

    Tiles of 8 leave keys in registers after one read, so that one buffer serves and more programs fit; that pays where
    whole tiles are copied. Tiles of 16 and more go through wgmma on Hopper, out of two buffers.
    """
    return max(8 if copied else 16, triton.next_power_of_2(group))


def programs_per_sm(head_dim: int, rows: int) -> int:
    """Programs that one multiprocessor holds at a time; results do not depend on it."""
    if head_dim > 128:
        return 1
    return (6 if rows == 8 else 5) if head_dim <= 64 else (4 if rows == 8 else 2)


@dataclass(frozen=True)
class DecodePlan:
    """Work list and scratch memory of decode attention; allocated once, filled on the device by ``plan_decode`` every step.

    A plan fits all layers of one window. ``pieces`` bounds the sum over sequences of ceil(context / PIECE); the caller, who
    knows the lengths, must keep to it, for nothing on the device can raise.
    """

    items: torch.Tensor  # [pieces, 4] int32: sequence, piece, context, scratch slot
    starts: torch.Tensor  # [sequences + 1] int32: first scratch slot of each sequence
    counts: torch.Tensor  # [1] int32: items in use
    tops: torch.Tensor  # [pieces, heads] float32
    totals: torch.Tensor  # [pieces, heads] float32
    sums: torch.Tensor  # [pieces, heads, head_dim] float32
    window: int


def allocate_plan(
    sequences: int, pieces: int, heads: int, head_dim: int, window: int, device: torch.device
) -> DecodePlan:
    """Allocate a plan for at most ``sequences`` sequences whose contexts take ``pieces`` pieces together."""

    def ints(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=device)

    def floats(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    return DecodePlan(
        items=ints(pieces, 4),
        starts=ints(sequences + 1),
        counts=ints(1),
        tops=floats(pieces, heads),
        totals=floats(pieces, heads),
        sums=floats(pieces, heads, head_dim),
        window=window,
    )


@triton.jit
def _first_piece(context, window, PIECE_: tl.constexpr):
    """The first piece that the last token of a context sees."""
    return tl.where(window > 0, tl.maximum(context - window, 0) // PIECE_, 0)


@triton.jit
def _plan_kernel(
    contexts, shared, items, starts, counts, sequences, window, SEQUENCES: tl.constexpr, PIECE_: tl.constexpr
):
    """Program i counts the pieces of the sequences before i, then lists its own."""
    sequence = tl.program_id(0)
    i = tl.arange(0, SEQUENCES)
    context = tl.load(contexts + i, mask=i < sequences, other=0)
    first = _first_piece(context, window, PIECE_)
    pieces = (context + PIECE_ - 1) // PIECE_ - first
    common = tl.load(shared + i, mask=i < sequences, other=0)
    own = pieces - tl.minimum(tl.maximum(common - first, 0), pieces)
    slot = tl.sum(tl.where(i < sequence, pieces, 0))
    item = tl.sum(tl.where(i < sequence, own, 0))
    tl.store(starts + sequence, slot)
    if sequence == sequences - 1:
        tl.store(starts + sequences, tl.sum(pieces))
        tl.store(counts, tl.sum(own))
    mine = tl.sum(tl.where(i == sequence, own, 0))
    common = tl.sum(tl.where(i == sequence, pieces, 0)) - mine
    begin = tl.sum(tl.where(i == sequence, first, 0)) + common
    context = tl.sum(tl.where(i == sequence, context, 0))
    for j in range(0, mine, SEQUENCES):
        record = items + (item + j + i) * 4
        mask = j + i < mine
        tl.store(record, sequence, mask=mask)
        tl.store(record + 1, begin + j + i, mask=mask)
        tl.store(record + 2, context, mask=mask)
        tl.store(record + 3, slot + common + j + i, mask=mask)


def plan_decode(plan: DecodePlan, context_lens: torch.Tensor, shared_pieces: torch.Tensor) -> None:
    """List the work of a step on the device: one launch, no synchronisation.

    Args:
        plan: written.
        context_lens: [sequences] int32, this step's token included; 0 for rows of a batch bucket that are not in use.
        shared_pieces: [sequences] int32, leading pieces that ``shared_prefix_attention`` computes; at most
            (context - 1) // PIECE, so that every sequence keeps a piece of its own.
    """
    sequences = context_lens.shape[0]
    _plan_kernel[(sequences,)](
        context_lens,
        shared_pieces,
        plan.items,
        plan.starts,
        plan.counts,
        sequences,
        plan.window,
        SEQUENCES=triton.next_power_of_2(sequences),
        PIECE_=PIECE,
        num_warps=4,
    )


@triton.jit
def _visible(key, last, window, WINDOWED: tl.constexpr):
    """[keys, rows]: whether a row at position ``last`` sees the key at position ``key``."""
    visible = key[:, None] <= last[None, :]
    if WINDOWED:
        visible = visible & (key[:, None] > last[None, :] - window)
    return visible


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

    Keys are the rows of the products, and the few queries their columns: so the tensor cores are filled by keys and each
    warp has its own keys. Returns maximum [ROWS], denominator [ROWS] and weighted sum [ROWS, DIM].
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
        scores = tl.where(_visible(first + lane, last, window, WINDOWED), scores, float("-inf"))
        top, weights, decay = tile_weights(scores, top, scale_, KEY_AXIS=0)
        weights = weights.to(v.dtype)
        acc = tl.dot(tl.trans(v), weights, acc * decay, input_precision="ieee")
        total = tl.dot(ones, weights, total * decay, input_precision="ieee")
    return top, tl.max(total, 0), tl.trans(acc)


@triton.jit
def _merge_kernel(
    starts, tops, totals, sums, out,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Merge the pieces of one (sequence, kv head) in their order; a single piece has been written already."""
    sequence, head = tl.program_id(0), tl.program_id(1) * GROUP
    slot, end_slot = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    if end_slot - slot < 2:
        return
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    mask = (row < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS, 1], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    for s in tl.range(slot, end_slot, loop_unroll_factor=4):
        index = (s * HEADS + head + row).to(tl.int64)
        piece_top = tl.load(tops + index, mask=row < GROUP, other=float("-inf"))
        piece_total = tl.load(totals + index, mask=row < GROUP, other=0.0)
        piece_acc = tl.load(sums + (index * HEAD_DIM)[:, None] + dim[None, :], mask=mask, other=0.0)
        top, total, acc = merge_piece(top, total, acc, piece_top, piece_total[:, None], piece_acc)
    offset = ((sequence.to(tl.int64) * HEADS + head + row) * HEAD_DIM)[:, None] + dim[None, :]
    tl.store(out + offset, (acc / total).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _store_piece(tops, totals, sums, top, total, acc, index, live, dim, HEAD_DIM: tl.constexpr):
    """Write partial results of rows to their scratch places: index [rows] = slot * heads + head."""
    tl.store(tops + index, top, mask=live)
    tl.store(totals + index, total, mask=live)
    tl.store(sums + (index * HEAD_DIM)[:, None] + dim[None, :], acc, mask=live[:, None] & (dim < HEAD_DIM)[None, :])


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
        _store_piece(tops, totals, sums, top, total, acc, index, row < GROUP, dim, HEAD_DIM)


@triton.jit
def _decode_kernel(
    query,  # [sequences, heads, head_dim]
    keys,  # [blocks, block_size, kv_heads, head_dim]
    values,
    tables,  # [sequences, blocks] int32
    items,
    starts,
    counts,
    tops,
    totals,
    sums,
    out,  # [sequences, heads, head_dim]
    query_stride,
    table_stride,
    scale,
    scale_log2,
    cap,
    window,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
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
    """Tiles of all pieces of this program in one loop, so that the next piece's keys are on their way while one ends."""
    HEADS: tl.constexpr = KV_HEADS * GROUP
    TILES: tl.constexpr = PIECE_ // TILE
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    lane = tl.arange(0, TILE)
    mask = (row < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
    ones = tl.full([ONES_, TILE], 1.0, query.dtype.element_ty)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ONES_, ROWS], tl.float32)
    acc = tl.zeros([DIM, ROWS], tl.float32)
    program, programs = tl.program_id(0), tl.num_programs(0)
    units = tl.maximum((tl.load(counts) * KV_HEADS - program + programs - 1) // programs, 0)
    for t in tl.range(0, units * TILES, num_stages=STAGES_):
        unit = program + t // TILES * programs
        head = unit % KV_HEADS * GROUP
        record = items + unit // KV_HEADS * 4
        sequence, piece, context = tl.load(record), tl.load(record + 1), tl.load(record + 2)
        first = piece * PIECE_ + t % TILES * TILE
        q_offset = (sequence.to(tl.int64) * query_stride + (head + row) * HEAD_DIM)[:, None] + dim[None, :]
        q = tl.load(query + q_offset, mask=mask, other=0.0)
        k, v = load_tile(
            keys, values, tables + sequence.to(tl.int64) * table_stride, first, context, unit % KV_HEADS,
            KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, TILE, COPIED,
        )  # fmt: skip
        scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # [keys, rows]
        scale_ = scale_log2
        if CAPPED:
            scores = soft_cap(scores, scale, cap)
            scale_ = 1.4426950408889634
        scores = tl.where(_visible(first + lane, context - 1 + row * 0, window, WINDOWED), scores, float("-inf"))
        begins, ends = t % TILES == 0, t % TILES == TILES - 1
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
    heads, head_dim = query.shape[1:]
    kv_heads = cache.keys.shape[2]
    group = heads // kv_heads
    dim = triton.next_power_of_2(head_dim)
    keys, values, copied = key_tiles(cache)
    rows = query_rows(group, copied)
    programs = min(plan.items.shape[0] * kv_heads, multiprocessors(query.device) * programs_per_sm(head_dim, rows))
    _decode_kernel[(programs,)](
        query,
        keys,
        values,
        block_tables,
        plan.items,
        plan.starts,
        plan.counts,
        plan.tops,
        plan.totals,
        plan.sums,
        out,
        query.stride(0),
        block_tables.stride(0),
        scale,
        scale * LOG2_E,
        softcap,
        plan.window,
        KV_HEADS=kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        DIM=triton.next_power_of_2(head_dim),
        BLOCK_SIZE=cache.block_size,
        ROWS=rows,
        TILE=KEY_TILE,
        PIECE_=PIECE,
        ONES_=ONES,
        CAPPED=softcap > 0,
        WINDOWED=plan.window > 0,
        COPIED=copied,
        STAGES_=STAGES,
        num_warps=WARPS,
    )
    _merge_kernel[(query.shape[0], kv_heads)](
        plan.starts,
        plan.tops,
        plan.totals,
        plan.sums,
        out,
        HEADS=heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        ROWS=triton.next_power_of_2(group),
        DIM=dim,
        num_warps=4,
    )


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
        groups: (sequences, tokens) with equal leading blocks for so many tokens; whole pieces of them are shared, and never the
            piece of a sequence's last token (pass at most context - 1 tokens).
        sequences: rows of the batch.
        capacity: items that fit; groups that no longer fit are left unshared.
        group_size: query heads per key head.
    """
    step = SHARED_ROWS // group_size
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
        first = _first_piece(context, window, PIECE_)
        live = live & (piece >= first)
        head = kv_head * GROUP + row % GROUP
        q_offset = sequence.to(tl.int64) * query_stride + head * HEAD_DIM
        mask = live[:, None] & (dim < HEAD_DIM)[None, :]
        q = tl.trans(tl.load(query + q_offset[:, None] + dim[None, :], mask=mask, other=0.0))
        table = tables + tl.load(members + member).to(tl.int64) * table_stride
        top, total, acc = _attend_piece(
            q, keys, values, table, kv_head, piece, piece * PIECE_ + PIECE_, context - 1, scale, scale_log2, cap, window,
            KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, ROWS, TILE, PIECE_, ONES_, CAPPED, WINDOWED, COPIED, STAGES_,
        )  # fmt: skip
        slot = tl.load(starts + sequence, mask=live, other=0) + piece - first
        _store_piece(
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
    programs = min(prefixes.items.shape[0] * kv_heads, multiprocessors(query.device) * 2)
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
        ROWS=SHARED_ROWS,
        TILE=KEY_TILE,
        PIECE_=PIECE,
        ONES_=ONES,
        CAPPED=softcap > 0,
        WINDOWED=plan.window > 0,
        COPIED=copied,
        STAGES_=2,
        num_warps=4,
    )
