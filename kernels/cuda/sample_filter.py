# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""min_p, top_k and top_p without sorting, by bisection on the bits of float32, and the draw from what they keep.

Filters look at few candidates where they can: the tokens from some limit on, of which there are surely enough, since
the limit is taken from the greatest logits of small groups of tokens. Where the candidates do not decide (a flat
distribution), the same search runs over the whole row. Which of the two runs depends on the row alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.cuda.launch import wait_for_earlier
from kernels.cuda.noise import gumbel_noise, gumbel_noise_at


@triton.jit
def order(x):
    """Integers in the order of float32 numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _above(scratch, top, limit, a, b, c, VOCAB: tl.constexpr, CHUNK: tl.constexpr, MASS: tl.constexpr):
    """How many (or with MASS, how much weight exp(x - top) of those from ``limit`` on) is at least a, b and c."""
    i = tl.arange(0, CHUNK)
    sum_a = tl.zeros([CHUNK], tl.float32)
    sum_b = sum_a
    sum_c = sum_a
    for start in tl.range(0, VOCAB, CHUNK, num_stages=3):
        x = tl.load(scratch + start + i, mask=start + i < VOCAB, other=float("-inf"))
        key = order(x)
        weight = tl.where(x >= limit, tl.exp(x - top), 0.0) if MASS else tl.where(start + i < VOCAB, 1.0, 0.0)
        sum_a += tl.where(key >= a, weight, 0.0)
        sum_b += tl.where(key >= b, weight, 0.0)
        sum_c += tl.where(key >= c, weight, 0.0)
    return tl.sum(sum_a, 0), tl.sum(sum_b, 0), tl.sum(sum_c, 0)


@triton.jit
def _search(scratch, top, limit, wanted, VOCAB: tl.constexpr, CHUNK: tl.constexpr, MASS: tl.constexpr):
    """The greatest float32 number from which on there are ``wanted`` tokens (or weight), by its bits."""
    low = order(tl.zeros([1], tl.float32) + float("-inf")).to(tl.int64)
    high = order(tl.zeros([1], tl.float32) + top).to(tl.int64) + 1
    low, high = tl.max(low, 0), tl.max(high, 0)  # scalars: low fulfils the wish, high does not
    while high - low > 1:
        step = tl.maximum((high - low) // 4, 1)
        a = low + step
        b = tl.minimum(a + step, high)
        c = tl.minimum(b + step, high)
        in_a, in_b, in_c = _above(
            scratch, top, limit, a.to(tl.int32), b.to(tl.int32), c.to(tl.int32), VOCAB, CHUNK, MASS
        )
        ok_a, ok_b, ok_c = in_a >= wanted, (in_b >= wanted) & (b < high), (in_c >= wanted) & (c < high)
        low, high = (
            tl.where(ok_c, c, tl.where(ok_b, b, tl.where(ok_a, a, low))),
            tl.where(ok_c, high, tl.where(ok_b, c, tl.where(ok_a, b, a))),
        )
    key = low.to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def whole_row_limit(scratch, top, top_k, top_p, min_p, VOCAB: tl.constexpr, CHUNK: tl.constexpr):
    """The least processed logit that min_p, top_k and top_p keep."""
    limit = tl.where(min_p > 0, top + tl.log(min_p), float("-inf"))
    if (top_k > 0) & (top_k < VOCAB):
        limit = tl.maximum(limit, _search(scratch, top, limit, top_k.to(tl.float32), VOCAB, CHUNK, False))
    if top_p < 1:
        lowest = order(tl.zeros([1], tl.float32) + float("-inf"))
        lowest = tl.max(lowest, 0)
        whole, _, _ = _above(scratch, top, limit, lowest, lowest, lowest, VOCAB, CHUNK, True)
        limit = tl.maximum(limit, _search(scratch, top, limit, whole * top_p, VOCAB, CHUNK, True))
    return limit


@triton.jit
def draw_from_row(scratch, limit, seed, position, VOCAB: tl.constexpr, CHUNK: tl.constexpr):
    """The token from ``limit`` on whose noisy logit is greatest, the lowest of equals."""
    i = tl.arange(0, CHUNK)
    best = limit * 0 + float("-inf")
    winner = tl.max(i, 0) * 0
    for start in tl.range(0, VOCAB, CHUNK):
        x = tl.load(scratch + start + i, mask=start + i < VOCAB, other=float("-inf"))
        if tl.max(x, 0) >= limit:
            x = tl.where(x >= limit, x + gumbel_noise(seed, position, start, CHUNK), float("-inf"))
            value, index = tl.max(x, 0, return_indices=True, return_indices_tie_break_left=True)
            winner = tl.where(value > best, start + index, winner)
            best = tl.maximum(value, best)
    return winner


@triton.jit
def search_among(key, weight, top, wanted):
    """The greatest float32 number from which on these keys weigh ``wanted``: five-way search in registers."""
    PIVOTS: tl.constexpr = 4
    j = tl.arange(0, PIVOTS).to(tl.int64)
    low = tl.max(order(tl.zeros([1], tl.float32) + float("-inf")), 0).to(tl.int64)
    high = tl.max(order(tl.zeros([1], tl.float32) + top), 0).to(tl.int64) + 1
    while high - low > 1:
        step = tl.maximum((high - low) // (PIVOTS + 1), 1)
        pivot = tl.minimum(low + step * (j + 1), high)
        above = tl.sum(tl.where(key[None, :] >= pivot.to(tl.int32)[:, None], weight[None, :], 0.0), 1)
        enough = tl.sum(((above >= wanted) & (pivot < high)).to(tl.int32), 0)
        high = tl.where(enough == PIVOTS, high, tl.minimum(low + step * (enough + 1), high))
        low = low + step * enough
    found = low.to(tl.int32)
    return (found ^ ((found >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def floor_kernel(
    part_top, groups, floors, top_ks,
    VOCAB: tl.constexpr, CHUNKS: tl.constexpr, PADDED: tl.constexpr, GROUPS: tl.constexpr, PADDED_GROUPS: tl.constexpr,
    BASIS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The limit of a row's candidates: as many groups as BASIS (or top_k) have a logit from it on."""
    wait_for_earlier(EARLY)
    row = tl.program_id(0)
    i = tl.arange(0, PADDED)
    g = tl.arange(0, PADDED_GROUPS)
    top = tl.max(tl.load(part_top + row * CHUNKS + i, mask=i < CHUNKS, other=float("-inf")), 0)
    maxima = tl.load(groups + row.to(tl.int64) * GROUPS + g, mask=g < GROUPS, other=float("-inf"))
    top_k = tl.load(top_ks + row)
    basis = tl.minimum(tl.maximum(tl.where(top_k < VOCAB, top_k, 0), BASIS), GROUPS).to(tl.float32)
    tl.store(floors + row, search_among(order(maxima), tl.where(g < GROUPS, 1.0, 0.0), top, basis))


@triton.jit
def collect_kernel(
    scratch, floors, values, ids, part_count,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, ROOM: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Copy one chunk's tokens from the row's limit on, in their order, to the chunk's room; empty places hold -inf."""
    wait_for_earlier(EARLY)
    row, chunk = tl.program_id(0), tl.program_id(1)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(scratch + row.to(tl.int64) * VOCAB + token, mask=token < VOCAB, other=float("-inf"))
    taken = (x >= tl.load(floors + row)) & (token < VOCAB)
    place = tl.cumsum(taken.to(tl.int32), 0) - 1
    count = tl.sum(taken.to(tl.int32), 0)
    part = row * CHUNKS + chunk
    room = part.to(tl.int64) * ROOM
    tl.store(part_count + part, count)
    tl.store(values + room + place, x, mask=taken & (place < ROOM))
    tl.store(ids + room + place, token, mask=taken & (place < ROOM))
    i = tl.arange(0, ROOM)
    tl.store(values + room + i, float("-inf"), mask=i >= count)
    tl.store(ids + room + i, VOCAB, mask=i >= count)


@triton.jit
def choose_among(
    values, ids, floor, fits, top, mass, top_k, top_p, min_p, seed, position, VOCAB: tl.constexpr, ROOM: tl.constexpr,
    PADDED: tl.constexpr,
):  # fmt: skip
    """Filter and draw among the candidates: (token, whether the candidates decided it)."""
    i = tl.arange(0, PADDED)
    x = tl.load(values + i, mask=i < ROOM, other=float("-inf"))
    token = tl.load(ids + i, mask=i < ROOM, other=VOCAB)
    there = token < VOCAB
    key = order(x)
    limit = tl.where(min_p > 0, top + tl.log(min_p), float("-inf"))
    if (top_k > 0) & (top_k < VOCAB):
        limit = tl.maximum(limit, search_among(key, tl.where(there, 1.0, 0.0), top, top_k.to(tl.float32)))
    decided = fits & ((top_p < 1) | (limit >= floor))
    if top_p < 1:
        weight = tl.where(there & (x >= limit), tl.exp(x - top), 0.0)
        mine = tl.sum(weight, 0)
        whole = tl.where(limit >= floor, mine, mass)
        decided = decided & (mine >= top_p * whole) & ((limit >= floor) | (min_p <= 0))
        limit = tl.maximum(limit, search_among(key, weight, top, tl.minimum(top_p * whole, mine)))
    drawn = tl.where(there & (x >= limit), x + gumbel_noise_at(seed, position, token), float("-inf"))
    return tl.min(tl.where(drawn == tl.max(drawn, 0), token, VOCAB), 0), decided
