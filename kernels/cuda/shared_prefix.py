# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Attention over prefix blocks that several sequences share, read once for all of them (cascade, Ye et al. 2024).

A piece's result does not depend on who computes it: the common pieces are computed for many queries at once, into the
sequences' own scratch slots, and ``decode_attention`` merges them like any others. So the bits stay the same. Where a
group is large enough to fill the device without splitting the keys, its pieces are merged as they come, in the order of
all merges, and only the result is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.cuda.decode_plan import DecodePlan, first_piece
from kernels.cuda.device import multiprocessors
from kernels.cuda.geometry import Geometry
from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier, with_stages
from kernels.cuda.numerics import PIECE
from kernels.cuda.paged import paged_keys
from kernels.cuda.query_rows import ONES, STAGES, attend_rows
from kernels.cuda.softmax import store_piece
from kernels.kv_cache import LayerCache

MERGED_FROM = 12  # programs that a group fills per key head, from which on each walks all pieces and merges them


@dataclass(frozen=True)
class SharedPrefixes:
    """Which sequences share their leading blocks: built on the host when the batch changes, read on the device.

    Tensors have fixed capacity, so that a graph can be captured over them; ``counts`` says how much is in use.
    """

    items: torch.Tensor  # [capacity, 3] int32: first member, members, and piece, or -n for pieces 0 to n - 1 merged
    members: torch.Tensor  # [sequences] int32: sequences in use, those of one group together
    counts: torch.Tensor  # [1] int32: items in use
    pieces: torch.Tensor  # [sequences] int32: shared leading pieces of each sequence, negative if merged into one


def share_prefixes(
    groups: Sequence[tuple[Sequence[int], int]], sequences: int, capacity: int, geometry: Geometry, device: torch.device
) -> SharedPrefixes:
    """Describe groups of sequences with common leading blocks.

    Args:
        groups: (sequences, tokens) with equal leading blocks for so many tokens; whole pieces of them are shared, and
            never the piece of a sequence's last token (pass at most context - 1 tokens).
        sequences: rows of the batch.
        capacity: items that fit; groups that no longer fit are left unshared.
        geometry: the model's.
    """
    step = geometry.shared_sequences
    pieces = torch.zeros(sequences, dtype=torch.int32)
    items: list[tuple[int, int, int]] = []
    members: list[int] = []
    for group, tokens in groups:
        common = tokens // PIECE
        firsts = range(0, len(group), step)
        merged = len(firsts) >= MERGED_FROM and common > 1
        parts = [-common] if merged else range(common)
        mine = [(len(members) + i, min(step, len(group) - i), part) for part in parts for i in firsts]
        if len(group) < 2 or len(items) + len(mine) > capacity:
            continue
        pieces[list(group)] = -common if merged else common
        items += mine
        members += group
    padded = torch.zeros(capacity, 3, dtype=torch.int32)
    padded[: len(items)] = torch.tensor(items, dtype=torch.int32).view(-1, 3)
    members += [0] * (sequences - len(members))
    rows = torch.tensor(members, dtype=torch.int32)
    count = torch.tensor([len(items)], dtype=torch.int32)
    return SharedPrefixes(padded.to(device), rows.to(device), count.to(device), pieces.to(device))


@triton.jit
def _member(members, contexts, i, count):
    """Sequence and context of an item's members ``i``, and whether there are so many."""
    live = i < count
    sequence = tl.load(members + i, mask=live, other=0)
    return sequence, tl.load(contexts + sequence, mask=live, other=0), live


@triton.jit
def _shared_kernel(
    query, keys, values, tables, contexts, items, members, counts, starts, tops, totals, sums,
    query_stride, table_stride, scale, scale_log2, cap, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, PIECE_: tl.constexpr, ONES_: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, COPIED: tl.constexpr, STAGES_: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One (item, kv head) at a time, up to ROWS // GROUP sequences each, into the sequences' own scratch slots."""
    wait_for_earlier(EARLY)
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    work = tl.load(counts) * KV_HEADS
    for unit in tl.range(tl.program_id(0), work, tl.num_programs(0), num_stages=1):
        kv_head = unit % KV_HEADS
        item = items + unit // KV_HEADS * 3
        member, count, part = tl.load(item), tl.load(item + 1), tl.load(item + 2)
        piece, end = tl.maximum(part, 0), tl.where(part < 0, -part, part + 1)
        head = kv_head * GROUP + row % GROUP
        sequence, context, live = _member(members + member, contexts, row // GROUP, count)
        q_offset = sequence.to(tl.int64) * query_stride + head * HEAD_DIM
        mask = live[:, None] & (dim < HEAD_DIM)[None, :]
        q = tl.load(query + q_offset[:, None] + dim[None, :], mask=mask, other=0.0)
        least = tl.min(tl.where(live, context, 0x7FFFFFFF), 0) - 1
        start = piece * PIECE_
        if WINDOWED:
            start = tl.maximum(start, tl.maximum(least - window + 1, 0) // TILE * TILE)
        table = tables + tl.load(members + member).to(tl.int64) * table_stride
        top, total, acc = attend_rows(
            q, keys, values, table, kv_head, start, end * PIECE_, context - 1, least, tl.max(context, 0) - 1, scale,
            scale_log2, cap, window,
            KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, ROWS, TILE, PIECE_, ONES_, False, CAPPED, WINDOWED, COPIED, STAGES_,
        )  # fmt: skip
        sequence, context, live = _member(members + member, contexts, row // GROUP, count)  # again: registers are few
        first = first_piece(context, window, PIECE_)
        live = live & (end > first)
        slot = tl.load(starts + sequence, mask=live, other=0) + tl.maximum(piece - first, 0)
        index = slot.to(tl.int64) * (KV_HEADS * GROUP) + head
        store_piece(tops, totals, sums, top, tl.max(total, 1), acc, index, live, dim, HEAD_DIM)


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
    paged = paged_keys(query, cache, scale, softcap, plan.window)
    geometry, early = Geometry.of(query, cache.keys), launch_arguments(starts_early(query.device))
    programs = min(prefixes.items.shape[0] * geometry.kv_heads, multiprocessors(query.device))
    with_stages(
        lambda stages: _shared_kernel[(programs,)](
            query, paged.keys, paged.values, block_tables, context_lens, prefixes.items, prefixes.members,
            prefixes.counts, plan.starts, plan.tops, plan.totals, plan.sums, query.stride(0), block_tables.stride(0),
            *paged.scores, **paged.sizes, ROWS=geometry.shared_rows, ONES_=ONES, STAGES_=stages,
            num_warps=geometry.shared_rows // 16, **early,
        ),
        STAGES, ("shared-prefix attention", query.device, geometry),
    )  # fmt: skip
