# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The one piece of arithmetic that decode, prefill and shared-prefix attention have in common.

Online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) over key tiles of fixed size, which make up pieces of
fixed size, which are merged. A query row gets the same bits from every kernel that walks them in one order, because

* products go through the tensor cores, which add along the key axis in one order whatever the number of query rows;
* the denominator is P times a block of ones, so that it is added in that order too (``tl.sum`` depends on the layout);
* the maximum is exact in any order;
* every multiplication followed by an addition is an explicit fused one, so that no compiler chooses per kernel;
* a tile that a row does not see changes nothing: its maximum stays, its weights are zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@triton.jit
def soft_cap(scores, scale, cap):
    """cap * tanh(scores * scale / cap), through exp2 so that interpreter and GPU share one formula."""
    e = tl.exp2(scores * (scale * 2.8853900817779268 / cap))
    return cap * (1.0 - 2.0 / (1.0 + e))


@triton.jit
def tile_weights(scores, top, scale_log2, KEY_AXIS: tl.constexpr):
    """Unnormalised weights of one tile of keys, and what its running results must be multiplied by first.

    Args:
        scores: [rows, keys] (KEY_AXIS 1) or [keys, rows] (KEY_AXIS 0) float32, unscaled; -inf where a row sees no key.
        top: [rows], maximum of scores * scale_log2 so far.
        scale_log2: factor of the scores times log2(e).

    Returns:
        new maximum [rows], weights in the shape of scores, decay with a 1 in the place of the key axis
    """
    new_top = tl.maximum(top, tl.max(scores, KEY_AXIS) * scale_log2)
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(tl.fma(scores, scale_log2, -tl.expand_dims(base, KEY_AXIS)))
    return new_top, weights, tl.expand_dims(tl.exp2(top - base), KEY_AXIS)


@triton.jit
def merge_piece(top, total, acc, piece_top, piece_total, piece_acc):
    """Fold one piece's (maximum [rows], denominator [rows, n], weighted sum [rows, head_dim]) into those so far."""
    new_top = tl.maximum(top, piece_top)
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    old = tl.exp2(top - base)[:, None]
    new = tl.exp2(piece_top - base)[:, None]
    return new_top, tl.fma(total, old, piece_total * new), tl.fma(acc, old, piece_acc * new)


@triton.jit
def rows_before(first, end, TILE: tl.constexpr, COPIED: tl.constexpr):
    """How many rows of a tile to leave empty, so that a sequence's last tile ends where its keys do.

    The tile copy engine reads nothing for rows before a block, but all of the stale ones behind a context. Keys move by
    whole steps of the tensor cores, 16 of them, and a step of zeros changes no sum: the bits stay the same.
    """
    if COPIED:
        return tl.maximum(first + TILE - end, 0) // 16 * 16
    return first * 0


@triton.jit
def load_tile(
    keys, values, table, first, end, before, kv_head, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """Keys and values [TILE, DIM] at positions first:first + TILE; from ``end`` on zeros (COPIED: stale ones).

    They stand ``before`` rows further down, behind others that mean nothing.
    """
    if COPIED:
        block = tl.load(table + first // BLOCK_SIZE, mask=first < end, other=0)
        k = tl.reshape(keys.load([block, first % BLOCK_SIZE - before, kv_head * HEAD_DIM]), [TILE, DIM])
        v = tl.reshape(values.load([block, first % BLOCK_SIZE - before, kv_head * HEAD_DIM]), [TILE, DIM])
    else:
        key = first + tl.arange(0, TILE)
        dim = tl.arange(0, DIM)
        blocks = tl.load(table + key // BLOCK_SIZE, mask=key < end, other=0)
        slots = blocks.to(tl.int64) * BLOCK_SIZE + key % BLOCK_SIZE
        offset = ((slots * KV_HEADS + kv_head) * HEAD_DIM)[:, None] + dim[None, :]
        mask = (key < end)[:, None] & (dim < HEAD_DIM)[None, :]
        k = tl.load(keys + offset, mask=mask, other=0.0)
        v = tl.load(values + offset, mask=mask, other=0.0)
    return k, v


@triton.jit
def visible_keys(key, last, window, WINDOWED: tl.constexpr):
    """[keys, rows]: whether a row at position ``last`` sees the key at position ``key``."""
    visible = key[:, None] <= last[None, :]
    if WINDOWED:
        visible = visible & (key[:, None] > last[None, :] - window)
    return visible


@triton.jit
def store_piece(tops, totals, sums, top, total, acc, index, live, dim, HEAD_DIM: tl.constexpr):
    """Write partial results of rows to their scratch places: index [rows] = slot * heads + head."""
    tl.store(tops + index, top, mask=live)
    tl.store(totals + index, total, mask=live)
    tl.store(sums + (index * HEAD_DIM)[:, None] + dim[None, :], acc, mask=live[:, None] & (dim < HEAD_DIM)[None, :])
