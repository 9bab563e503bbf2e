# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Attention of many query rows over one range of keys: the loop that prefill and shared prefixes have in common."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.cuda.softmax import load_tile, merge_piece, soft_cap, tile_weights

ONES = 16  # columns of the block of ones that sums the denominator; all come out equal
STAGES = 5  # key tiles on their way, where shared memory has room for them


@triton.jit
def _hide(
    scores, first, row_position, least, most, window, TILE: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr
):
    """-inf for keys that a row does not see; most tiles have none."""
    if CAUSAL or WINDOWED:
        hides = first + TILE > least + 1
        if WINDOWED:
            hides = hides | (first < most + 1 - window)
        if hides:
            key = first + tl.arange(0, TILE)
            visible = key[None, :] <= row_position[:, None]
            if WINDOWED:
                visible = visible & (key[None, :] > row_position[:, None] - window)
            scores = tl.where(visible, scores, float("-inf"))
    return scores


@triton.jit
def attend_rows(
    q, keys, values, table, kv_head, start, end, row_position, least, most, scale, scale_log2, cap, window,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr, PIECE_: tl.constexpr, ONES_: tl.constexpr, CAUSAL: tl.constexpr, CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr, COPIED: tl.constexpr, STAGES_: tl.constexpr,
):  # fmt: skip
    """q [ROWS, DIM] over the keys start:end of a block table, piece by piece, each merged into those before it.

    Row r stands at ``row_position[r]``, between ``least`` and ``most``, and sees no key behind it (CAUSAL: there are
    some). ``start`` is a multiple of TILE.

    Returns:
        maximum [ROWS], denominator [ROWS, ONES_] and weighted sum [ROWS, DIM]
    """
    ones = tl.full([TILE, ONES_], 1.0, q.dtype)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS, ONES_], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    piece_top, piece_total, piece_acc = top, total, acc
    for first in tl.range(start, end, TILE, num_stages=STAGES_):
        k, v = load_tile(keys, values, table, first, end, 0, kv_head, KV_HEADS, HEAD_DIM, DIM, BLOCK_SIZE, TILE, COPIED)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        # Here, where the tensor cores have been waited for. A new piece has no maximum yet: its first decay is zero and
        # clears denominator and sum. Clearing them here would define registers that the tensor cores accumulate in, and
        # the compiler would serialise them.
        if first % PIECE_ == 0:
            top, total, acc = merge_piece(top, total, acc, piece_top, piece_total, piece_acc)
            piece_top = tl.full([ROWS], float("-inf"), tl.float32)
        scale_ = scale_log2
        if CAPPED:
            scores = soft_cap(scores, scale, cap)
            scale_ = 1.4426950408889634
        scores = _hide(scores, first, row_position, least, most, window, TILE, CAUSAL, WINDOWED)
        piece_top, weights, decay = tile_weights(scores, piece_top, scale_, KEY_AXIS=1)
        weights = weights.to(v.dtype)
        piece_acc = tl.dot(weights, v, piece_acc * decay, input_precision="ieee")
        piece_total = tl.dot(weights, ones, piece_total * decay, input_precision="ieee")
    return merge_piece(top, total, acc, piece_top, piece_total, piece_acc)
