# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Attention of many query tokens per sequence (prefill and its chunks) over the paged cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.cuda.paged import paged_keys
from kernels.cuda.query_rows import ONES, STAGES, attend_rows, rows_per_program
from kernels.kv_cache import LayerCache


def tile_tokens(heads: int, kv_heads: int, head_dim: int) -> int:
    """Query tokens per program."""
    return rows_per_program(head_dim) // (heads // kv_heads)


def prefill_tiles(
    query_starts: Sequence[int], context_lens: Sequence[int], heads: int, kv_heads: int, head_dim: int
) -> torch.Tensor:
    """Cut the queries of a step into programs, longest contexts first so that the last ones to start are short.

    Args:
        query_starts: sequence i owns query tokens query_starts[i]:query_starts[i + 1].
        context_lens: tokens of each sequence after this step; its queries are the last of them.
        heads, kv_heads, head_dim: the model's.

    Returns:
        [tiles, 4] int32 on the CPU: sequence, first query token, query tokens, position of the first
    """
    tokens = tile_tokens(heads, kv_heads, head_dim)
    rows = []
    for i, context in enumerate(context_lens):
        start, stop = query_starts[i], query_starts[i + 1]
        for first in range(start, stop, tokens):
            rows.append((i, first, min(tokens, stop - first), context - (stop - first)))
    rows.sort(key=lambda tile: tile[3], reverse=True)
    return torch.tensor(rows, dtype=torch.int32).view(-1, 4)


@triton.jit
def _prefill_kernel(
    query,  # [tokens, heads, head_dim]
    keys,  # [blocks, block_size, kv_heads, head_dim]
    values,
    tables,  # [sequences, blocks] int32
    tiles,  # [tiles, 4] int32
    out,  # [tokens, heads, head_dim]
    query_stride, table_stride, scale, scale_log2, cap, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, PIECE_: tl.constexpr, ONES_: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, COPIED: tl.constexpr, STAGES_: tl.constexpr,
):  # fmt: skip
    """One tile of ``prefill_tiles`` and one kv head."""
    kv_head = tl.program_id(0) % KV_HEADS
    tile = tiles + tl.program_id(0) // KV_HEADS * 4
    sequence, token, count, position = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    row_token = row // GROUP
    row_position = position + row_token
    live = row_token < count
    q_offset = (token + row_token).to(tl.int64) * query_stride + (kv_head * GROUP + row % GROUP) * HEAD_DIM
    q_mask = live[:, None] & (dim < HEAD_DIM)[None, :]
    q = tl.load(query + q_offset[:, None] + dim[None, :], mask=q_mask, other=0.0)

    end = position + count  # keys that the last row sees
    start = 0
    if WINDOWED:
        start = tl.maximum(position - window + 1, 0) // TILE * TILE
    _, total, acc = attend_rows(
        q, keys, values, tables + sequence.to(tl.int64) * table_stride, kv_head, start, end, row_position, position,
        end - 1, scale, scale_log2, cap, window,
        KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, ROWS, TILE, PIECE_, ONES_, True, CAPPED, WINDOWED, COPIED, STAGES_,
    )  # fmt: skip
    acc = acc / tl.max(total, 1)[:, None]
    o_offset = (token + row_token).to(tl.int64) * (KV_HEADS * GROUP) + kv_head * GROUP + row % GROUP
    tl.store(out + o_offset[:, None] * HEAD_DIM + dim[None, :], acc.to(out.dtype.element_ty), mask=q_mask)


def prefill_attention(
    query: torch.Tensor,
    cache: LayerCache,
    block_tables: torch.Tensor,
    tiles: torch.Tensor,
    scale: float,
    window: int,
    softcap: float,
    out: torch.Tensor,
) -> None:
    """Causal attention of the query tokens that ``tiles`` names; other rows of ``out`` are left as they are.

    Args:
        query: [tokens, heads, head_dim], heads contiguous.
        cache: the layer's keys and values, this step's included.
        block_tables: [sequences, blocks] int32.
        tiles: [tiles, 4] int32 on the device, of ``prefill_tiles``.
        scale: factor of the scores.
        window: keys that a query sees, itself included; 0 for all.
        softcap: scores become softcap * tanh(score / softcap); 0 for none.
        out: [tokens, heads, head_dim] contiguous.
    """
    if not tiles.shape[0]:
        return
    paged = paged_keys(query, cache, scale, softcap, window)
    rows = rows_per_program(query.shape[2])
    _prefill_kernel[(tiles.shape[0] * cache.keys.shape[2],)](
        query, paged.keys, paged.values, block_tables, tiles, out, query.stride(0), block_tables.stride(0),
        *paged.scores, **paged.sizes, ROWS=rows, ONES_=ONES, STAGES_=STAGES, num_warps=rows // 16,
    )  # fmt: skip
