"""Attention over the paged cache: what a step asks for, the reference, and the dispatch by device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from kernels.kv_cache import LayerCache, gather

if TYPE_CHECKING:
    from kernels.cuda.decode_plan import DecodePlan
    from kernels.cuda.prefill import SplitScratch
    from kernels.cuda.shared_prefix import SharedPrefixes


@dataclass(frozen=True)
class AttentionBatch:
    """Which queries see which keys in one step.

    Sequence ``i`` owns the query tokens ``query_starts[i]:query_starts[i + 1]``; they are the last of its
    ``context_lens[i]`` tokens, whose keys and values are in the cache when attention runs.
    """

    query_starts: Sequence[int]
    context_lens: Sequence[int]
    block_tables: torch.Tensor  # [sequences, blocks] int32

    @cached_property
    def tiles(self) -> torch.Tensor:
        """[tiles, 4] int32: sequence, first query, queries, position of the first. Longest contexts first."""
        from kernels.cpu.attention import QUERY_TILE

        rows = []
        for i, context in enumerate(self.context_lens):
            start, stop = self.query_starts[i], self.query_starts[i + 1]
            for first in range(start, stop, QUERY_TILE):
                rows.append((i, first, min(QUERY_TILE, stop - first), context - (stop - first)))
        rows.sort(key=lambda tile: tile[3], reverse=True)
        return torch.tensor(rows, dtype=torch.int32)


@dataclass(frozen=True)
class CudaAttentionBatch:
    """The same on a CUDA device: the first ``decoding`` tokens are one query each, ``tiles`` names all others.

    A decoding token without a context is left to the tiles. ``prefixes`` says which decoding sequences read common
    leading pieces once for all, and ``plan`` has been filled accordingly.
    """

    decoding: int
    decode_tables: torch.Tensor  # [decoding, blocks] int32
    contexts: torch.Tensor  # [decoding] int32
    plan: DecodePlan
    prefixes: SharedPrefixes | None = None
    prefill_tables: torch.Tensor | None = None  # [rows, blocks] int32
    tiles: torch.Tensor | None = None  # [tiles, RECORD] int32, of ``prefill_tiles``, with rows of prefill_tables
    split: SplitScratch | None = None  # where some tile is split
    side: torch.cuda.Stream | None = None  # where prefill attention runs beside decode attention


def paged_attention(
    query: torch.Tensor,
    cache: LayerCache,
    batch: AttentionBatch | CudaAttentionBatch,
    scale: float,
    window: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Causal attention of every query of a step with the cached keys of its sequence.

    Args:
        query: [tokens, heads, head_dim], float32 on the CPU.
        cache: the layer's keys and values, this step's included.
        batch: which queries see which keys.
        scale: factor of the scores, usually head_dim ** -0.5.
        window: keys that a query sees, itself included; 0 for all.
        dtype: of the result.

    Returns:
        [tokens, heads, head_dim]
    """
    if isinstance(batch, CudaAttentionBatch):
        return _on_cuda(query, cache, batch, scale, window)
    if query.device.type != "cpu":
        return reference(query, cache, batch, scale, window).to(dtype)
    from kernels.cpu import attention as cpu
    from kernels.cpu.numeric import array, use_threads

    out = torch.empty(query.shape, dtype=dtype)
    tiles = batch.tiles
    use_threads(len(tiles) * cache.keys.shape[1], per_thread=4)
    cpu.paged_attention(
        array(query),
        array(cache.keys),
        array(cache.values),
        array(batch.block_tables),
        array(tiles),
        window,
        scale,
        array(out),
    )
    return out


def _on_cuda(
    query: torch.Tensor, cache: LayerCache, batch: CudaAttentionBatch, scale: float, window: int
) -> torch.Tensor:
    from kernels.cuda.decode import decode_attention
    from kernels.cuda.prefill import prefill_attention
    from kernels.cuda.shared_prefix import shared_prefix_attention

    out, count, tables = torch.empty_like(query), batch.decoding, batch.decode_tables
    side = batch.side if batch.tiles is not None else None
    if side is not None:  # before decode attention, whose programs would leave no room
        side.wait_stream(torch.cuda.current_stream(query.device))
    with torch.cuda.stream(side):
        if batch.tiles is not None and batch.prefill_tables is not None:
            prefill_attention(query, cache, batch.prefill_tables, batch.tiles, scale, window, 0.0, out, batch.split)
    if count and batch.prefixes is not None:
        shared_prefix_attention(query[:count], cache, tables, batch.contexts, batch.prefixes, batch.plan, scale, 0.0)
    if count:
        decode_attention(query[:count], cache, tables, batch.plan, scale, 0.0, out[:count])
    if side is not None:
        torch.cuda.current_stream(query.device).wait_stream(side)
    return out


def reference(query: torch.Tensor, cache: LayerCache, batch: AttentionBatch, scale: float, window: int) -> torch.Tensor:
    """The definition, in float64: softmax(q k / sqrt(d)) v over a sequence's visible keys (Vaswani et al. 2017)."""
    out = torch.empty_like(query)
    for i, context in enumerate(batch.context_lens):
        start, stop = batch.query_starts[i], batch.query_starts[i + 1]
        keys, values = (x.double() for x in gather(cache, batch.block_tables[i], context))
        group = query.shape[1] // keys.shape[1]
        keys, values = (
            keys.repeat_interleave(group, 1),
            values.repeat_interleave(group, 1),
        )  # [context, heads, head_dim]
        scores = torch.einsum("qhd,khd->hqk", query[start:stop].double(), keys) * scale
        positions = torch.arange(context - (stop - start), context, device=query.device)[:, None]
        seen = torch.arange(context, device=query.device)[None, :]
        hidden = seen > positions
        if window > 0:
            hidden |= seen <= positions - window
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[start:stop] = torch.einsum("hqk,khd->qhd", weights, values).to(query.dtype)
    return out
