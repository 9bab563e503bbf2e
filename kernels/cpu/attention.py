"""Paged attention on the CPU: prefill, chunked prefill and decode are one kernel with one order of arithmetic.

A work item is a tile of neighbouring queries of one sequence and one KV head. Keys are stored transposed within a block
(``[head_dim, block_size]``), so that scores of neighbouring keys fill a vector register without horizontal sums.

Order of arithmetic for one query row, whatever the tile or the batch: a score sums over head_dim from first to last;
the maximum is exact; the denominator is summed in 16 lanes (key position modulo 16), then over the lanes; the output
sums over keys from first to last. Nothing of that depends on how the prompt was cut into chunks.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels.cpu.numeric import FLAGS, LANES, LOG2E, PARALLEL, exp2, narrow, prefetch, widen

KEY_TILE = 128  # keys widened to float32 at a time: 32 KiB at head_dim 64, it stays in the first-level cache
QUERY_TILE = 16  # queries of one sequence that share a widened tile


@numba.njit(**FLAGS)
def _load_keys(cache: Any, values: Any, tables: Any, sequence: int, head: int, first_block: int, tile: Any) -> None:
    """tile [head_dim, blocks, block_size] = the keys of ``blocks`` blocks of one sequence and head.

    Blocks lie anywhere in memory, where the processor's own prefetcher does not follow: while a block is read, the next
    one and this one's values, which are read after the scores, are asked for.
    """
    _, kv_heads, dim, block_size = cache.shape
    size = dim * block_size
    line = 64 // cache.itemsize
    for b in range(tile.shape[1]):
        block = tables[sequence, min(first_block + b, tables.shape[1] - 1)]
        following = tables[sequence, min(first_block + b + 1, tables.shape[1] - 1)]
        for i in range(0, size, line):
            prefetch(cache, (following * kv_heads + head) * size + i)
            prefetch(values, (block * kv_heads + head) * size + i)
        for d in range(tile.shape[0]):
            for j in range(tile.shape[2]):
                tile[d, b, j] = widen(cache[block, head, d, j])


@numba.njit(**FLAGS)
def _load_values(cache: Any, tables: Any, sequence: int, head: int, first_block: int, tile: Any) -> None:
    """tile [blocks, block_size, head_dim] = the values of ``blocks`` blocks of one sequence and head."""
    for b in range(tile.shape[0]):
        block = tables[sequence, min(first_block + b, tables.shape[1] - 1)]
        for j in range(tile.shape[1]):
            for d in range(tile.shape[2]):
                tile[b, j, d] = widen(cache[block, head, j, d])


@numba.njit(**FLAGS)
def _score(query: Any, token: int, head: int, tile: Any, scores: Any, row: int, piece: int) -> None:
    """scores[row, piece, j] = query[token, head] . tile[:, j], over head_dim in order; four terms per pass."""
    count = tile.shape[1]
    for j in range(count):
        scores[row, piece, j] = np.float32(0.0)
    for d in range(0, tile.shape[0], 4):
        q0, q1 = query[token, head, d], query[token, head, d + 1]
        q2, q3 = query[token, head, d + 2], query[token, head, d + 3]
        for j in range(count):
            total = scores[row, piece, j] + q0 * tile[d, j]
            total = total + q1 * tile[d + 1, j]
            total = total + q2 * tile[d + 2, j]
            scores[row, piece, j] = total + q3 * tile[d + 3, j]


@numba.njit(**FLAGS)
def _softmax(scores: Any, row: int, first: int, last: int, scale: Any, lanes: Any) -> Any:
    """Turn scores[row, first:last] into exp2((score - max) * scale), zero the rest of the row, and return its sum."""
    pieces, count = scores.shape[1], scores.shape[2]
    top = np.float32(-np.inf)
    for piece in range(pieces):
        for j in range(count):
            if first <= piece * count + j < last:
                top = max(top, scores[row, piece, j])
    shift = top * scale
    for lane in range(LANES):
        lanes[lane] = np.float32(0.0)
    for piece in range(pieces):
        for j in range(count):
            seen = first <= piece * count + j < last
            weight = exp2(scores[row, piece, j] * scale - shift)
            scores[row, piece, j] = weight if seen else np.float32(0.0)
        for j in range(0, count, LANES):
            for lane in range(LANES):
                lanes[lane] += scores[row, piece, j + lane]
    total = np.float32(0.0)
    for lane in range(LANES):
        total += lanes[lane]
    return total


@numba.njit(**FLAGS)
def _accumulate(scores: Any, row: int, piece: int, tile: Any, acc: Any) -> None:
    """acc[row] += scores[row, piece, j] * tile[j] over j in order; eight terms per pass over the row."""
    for j in range(0, tile.shape[0], 8):
        w0, w1, w2, w3 = (
            scores[row, piece, j],
            scores[row, piece, j + 1],
            scores[row, piece, j + 2],
            scores[row, piece, j + 3],
        )
        w4, w5, w6, w7 = (
            scores[row, piece, j + 4],
            scores[row, piece, j + 5],
            scores[row, piece, j + 6],
            scores[row, piece, j + 7],
        )
        for d in range(tile.shape[1]):
            total = acc[row, d] + w0 * tile[j, d]
            total = total + w1 * tile[j + 1, d]
            total = total + w2 * tile[j + 2, d]
            total = total + w3 * tile[j + 3, d]
            total = total + w4 * tile[j + 4, d]
            total = total + w5 * tile[j + 5, d]
            total = total + w6 * tile[j + 6, d]
            acc[row, d] = total + w7 * tile[j + 7, d]


@numba.njit(**FLAGS)
def _attend(
    query: Any,
    key_cache: Any,
    value_cache: Any,
    tables: Any,
    tiles: Any,
    index: int,
    head: int,
    window: int,
    scale: Any,
    out: Any,
) -> None:
    """One work item: the queries of ``tiles[index]`` with one KV head."""
    sequence, first, tokens, position = tiles[index, 0], tiles[index, 1], tiles[index, 2], tiles[index, 3]
    _, kv_heads, dim, block_size = key_cache.shape
    group = query.shape[1] // kv_heads
    rows = tokens * group
    blocks = KEY_TILE // block_size
    skipped = max(0, position - window + 1) // KEY_TILE if window > 0 else 0
    pieces = (position + tokens + KEY_TILE - 1) // KEY_TILE - skipped
    scores = np.empty((rows, pieces, KEY_TILE), np.float32)
    keys = np.empty((dim, blocks, block_size), np.float32)
    flat_keys = keys.reshape(dim, KEY_TILE)
    for piece in range(pieces):
        _load_keys(key_cache, value_cache, tables, sequence, head, (skipped + piece) * blocks, keys)
        for r in range(rows):
            _score(query, first + r // group, head * group + r % group, flat_keys, scores, r, piece)
    sums = np.empty(rows, np.float32)
    lanes = np.empty(LANES, np.float32)
    for r in range(rows):
        end = position + r // group + 1
        begin = max(0, end - window) if window > 0 else 0
        sums[r] = _softmax(scores, r, begin - skipped * KEY_TILE, end - skipped * KEY_TILE, scale, lanes)
    values = np.empty((blocks, block_size, dim), np.float32)
    flat_values = values.reshape(KEY_TILE, dim)
    acc = np.zeros((rows, dim), np.float32)
    for piece in range(pieces):
        _load_values(value_cache, tables, sequence, head, (skipped + piece) * blocks, values)
        for r in range(rows):
            _accumulate(scores, r, piece, flat_values, acc)
    for r in range(rows):
        token, query_head, factor = first + r // group, head * group + r % group, np.float32(1.0) / sums[r]
        for d in range(dim):
            out[token, query_head, d] = narrow(acc[r, d] * factor, out)


@numba.njit(**PARALLEL)
def paged_attention(
    query: Any, key_cache: Any, value_cache: Any, tables: Any, tiles: Any, window: int, scale: float, out: Any
) -> None:
    """Attention of all queries of a step over the paged cache.

    Args:
        query: [tokens, heads, head_dim] float32.
        key_cache: [blocks, kv_heads, head_dim, block_size], float32 or bfloat16 bits.
        value_cache: [blocks, kv_heads, block_size, head_dim].
        tables: [sequences, blocks] int32, the blocks of each sequence.
        tiles: [tiles, 4] int32: sequence, first token, tokens, position of the first token.
        window: keys that a query sees, itself included; 0 for all.
        scale: factor of the scores.
        out: [tokens, heads, head_dim], float32 or bfloat16 bits.
    """
    kv_heads = key_cache.shape[1]
    factor = np.float32(np.float32(scale) * LOG2E)
    for item in numba.prange(tiles.shape[0] * kv_heads):
        _attend(query, key_cache, value_cache, tables, tiles, item // kv_heads, item % kv_heads, window, factor, out)
