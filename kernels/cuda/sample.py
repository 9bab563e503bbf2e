# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
"""Fused sampling without sorting: chunks of the vocabulary side by side, filters by bisection on the bits of float32.

Filters look at few candidates where they can: the tokens from some limit on, of which there are surely enough, since the limit
is taken from the greatest logits of small groups of tokens. Where the candidates do not decide (a flat distribution), the
same search runs over the whole row. Which of the two runs depends on the row alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.cuda.numerics import BASIS, CANDIDATES, GROUP, SEARCH_CHUNK, VOCAB_CHUNK
from kernels.sample import GREEDY_BELOW, Sampled, SamplingRows


@triton.jit
def _philox(seed, position, counter):
    zero = counter * 0
    place = (position & 0xFFFFFFFF).to(tl.uint32) + zero.to(tl.uint32)
    return tl.philox(seed, counter, place, zero, zero)


@triton.jit
def _gumbel(words):
    uniform = ((words >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2 ** -23
    return -tl.log(-tl.log(uniform))


@triton.jit
def gumbel_noise(seed, position, start, CHUNK: tl.constexpr):
    """Noise of tokens start:start + CHUNK, the words of ``kernels.noise``: Philox word token % 4 of counter token // 4."""
    a, b, c, d = _philox(seed, position, start // 4 + tl.arange(0, CHUNK // 4))
    return _gumbel(tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [CHUNK]))


@triton.jit
def gumbel_noise_at(seed, position, token):
    """Noise of single tokens."""
    a, b, c, d = _philox(seed, position, token // 4)
    word = token % 4
    return _gumbel(tl.where(word < 2, tl.where(word == 0, a, b), tl.where(word == 2, c, d)))


@triton.jit
def _order(x):
    """Integers in the order of float32 numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _scan_kernel(
    logits, scratch, occurrences, states, presence, frequency, repetition, temperatures, top_ks, top_ps, min_ps,
    seeds, positions, part_max, part_sum, part_top, part_mass, part_best, part_token, groups, stride, greedy_below,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, GROUP: tl.constexpr, PENALISED: tl.constexpr,
    FILTERED: tl.constexpr,
):  # fmt: skip
    """One chunk of one row: its share of the log-sum-exp, its processed logits, and its best token."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    start = chunk * CHUNK
    token = start + tl.arange(0, CHUNK)
    mask = token < VOCAB
    x = tl.load(logits + row.to(tl.int64) * stride + token, mask=mask, other=float("-inf")).to(tl.float32)
    part = row * CHUNKS + chunk
    top = tl.max(x, 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    tl.store(part_max + part, top)
    tl.store(part_sum + part, tl.sum(tl.exp(x - base), 0))
    if PENALISED:
        state = tl.load(states + row).to(tl.int64)
        seen = tl.load(occurrences + state * VOCAB + token, mask=mask, other=0)
        factor = tl.where(seen > 0, tl.load(repetition + row), 1.0)
        x = tl.where(x > 0, x / factor, x * factor)
        output = seen >> 1
        x = x - tl.load(frequency + row) * output - tl.load(presence + row) * (output > 0).to(tl.float32)
    temperature = tl.load(temperatures + row)
    if temperature >= greedy_below:
        x = x / temperature
    if FILTERED:
        tl.store(scratch + row.to(tl.int64) * VOCAB + token, x, mask=mask)
        peak = tl.max(x, 0)
        tl.store(part_top + part, peak)
        tl.store(part_mass + part, tl.sum(tl.exp(x - tl.where(peak == float("-inf"), 0.0, peak)), 0))
        group = part.to(tl.int64) * (CHUNK // GROUP) + tl.arange(0, CHUNK // GROUP)
        tl.store(groups + group, tl.max(tl.reshape(x, [CHUNK // GROUP, GROUP]), 1))
    if temperature >= greedy_below:
        x += gumbel_noise(tl.load(seeds + row), tl.load(positions + row), start, CHUNK)
    best, index = tl.max(x, 0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(part_best + part, best)
    tl.store(part_token + part, start + index)


@triton.jit
def _above(scratch, top, limit, a, b, c, VOCAB: tl.constexpr, CHUNK: tl.constexpr, MASS: tl.constexpr):
    """How many (or with MASS, how much weight exp(x - top) of those from ``limit`` on) is at least a, b and c."""
    i = tl.arange(0, CHUNK)
    sum_a = tl.zeros([CHUNK], tl.float32)
    sum_b = sum_a
    sum_c = sum_a
    for start in tl.range(0, VOCAB, CHUNK, num_stages=3):
        x = tl.load(scratch + start + i, mask=start + i < VOCAB, other=float("-inf"))
        key = _order(x)
        if MASS:
            weight = tl.where(x >= limit, tl.exp(x - top), 0.0)
        else:
            weight = tl.where(start + i < VOCAB, 1.0, 0.0)
        sum_a += tl.where(key >= a, weight, 0.0)
        sum_b += tl.where(key >= b, weight, 0.0)
        sum_c += tl.where(key >= c, weight, 0.0)
    return tl.sum(sum_a, 0), tl.sum(sum_b, 0), tl.sum(sum_c, 0)


@triton.jit
def _search(scratch, top, limit, wanted, VOCAB: tl.constexpr, CHUNK: tl.constexpr, MASS: tl.constexpr):
    """The greatest float32 number from which on there are ``wanted`` tokens (or weight): four-way search on its bits."""
    low = _order(tl.zeros([1], tl.float32) + float("-inf")).to(tl.int64)
    high = _order(tl.zeros([1], tl.float32) + top).to(tl.int64) + 1
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
def _keep(scratch, top, top_k, top_p, min_p, VOCAB: tl.constexpr, CHUNK: tl.constexpr):
    """The least processed logit that min_p, top_k and top_p keep."""
    limit = tl.where(min_p > 0, top + tl.log(min_p), float("-inf"))
    if (top_k > 0) & (top_k < VOCAB):
        limit = tl.maximum(limit, _search(scratch, top, limit, top_k.to(tl.float32), VOCAB, CHUNK, False))
    if top_p < 1:
        lowest = _order(tl.zeros([1], tl.float32) + float("-inf"))
        lowest = tl.max(lowest, 0)
        whole, _, _ = _above(scratch, top, limit, lowest, lowest, lowest, VOCAB, CHUNK, True)
        limit = tl.maximum(limit, _search(scratch, top, limit, whole * top_p, VOCAB, CHUNK, True))
    return limit


@triton.jit
def _draw(scratch, limit, seed, position, VOCAB: tl.constexpr, CHUNK: tl.constexpr):
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
def _search_among(key, weight, top, wanted):
    """The greatest float32 number from which on the tokens of these keys weigh ``wanted``: bisection in registers."""
    low = tl.max(_order(tl.zeros([1], tl.float32) + float("-inf")), 0).to(tl.int64)
    high = tl.max(_order(tl.zeros([1], tl.float32) + top), 0).to(tl.int64) + 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = tl.sum(tl.where(key >= middle.to(tl.int32), weight, 0.0), 0) >= wanted
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    found = low.to(tl.int32)
    return (found ^ ((found >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _collect(scratch, part_top, values, ids, limit, VOCAB: tl.constexpr, CHUNK: tl.constexpr, ROOM: tl.constexpr):
    """Copy the tokens from ``limit`` on, in their order, as far as there is room; return their number."""
    i = tl.arange(0, CHUNK)
    count = tl.max(i, 0) * 0
    for start in tl.range(0, VOCAB, CHUNK):
        if tl.load(part_top + start // CHUNK) >= limit:
            x = tl.load(scratch + start + i, mask=start + i < VOCAB, other=float("-inf"))
            taken = (x >= limit) & (start + i < VOCAB)
            place = count + tl.cumsum(taken.to(tl.int32), 0) - 1
            tl.store(values + place, x, mask=taken & (place < ROOM))
            tl.store(ids + place, start + i, mask=taken & (place < ROOM))
            count += tl.sum(taken.to(tl.int32), 0)
    return count


@triton.jit
def _choose_among(
    scratch, part_top, groups, values, ids, top, mass, top_k, top_p, min_p, seed, position,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr, BASIS: tl.constexpr,
    ROOM: tl.constexpr,
):  # fmt: skip
    """Filter and draw among the candidates: (token, whether the candidates decided it)."""
    g = tl.arange(0, PADDED)
    maxima = tl.load(groups + g, mask=g < GROUPS, other=float("-inf"))
    basis = tl.minimum(tl.maximum(tl.where(top_k < VOCAB, top_k, 0), BASIS), GROUPS).to(tl.float32)
    floor = _search_among(_order(maxima), tl.where(g < GROUPS, 1.0, 0.0), top, basis)
    count = _collect(scratch, part_top, values, ids, floor, VOCAB, CHUNK, ROOM)
    tl.debug_barrier()  # candidates were written by other threads than read them
    i = tl.arange(0, ROOM)
    there = i < tl.minimum(count, ROOM)
    x = tl.load(values + i, mask=there, other=float("-inf"))
    token = tl.load(ids + i, mask=there, other=VOCAB)
    key = _order(x)
    limit = tl.where(min_p > 0, top + tl.log(min_p), float("-inf"))
    if (top_k > 0) & (top_k < VOCAB):
        limit = tl.maximum(limit, _search_among(key, tl.where(there, 1.0, 0.0), top, top_k.to(tl.float32)))
    decided = (count <= ROOM) & ((top_p < 1) | (limit >= floor))
    if top_p < 1:
        weight = tl.where(there & (x >= limit), tl.exp(x - top), 0.0)
        mine = tl.sum(weight, 0)
        whole = tl.where(limit >= floor, mine, mass)
        decided = decided & (mine >= top_p * whole) & ((limit >= floor) | (min_p <= 0))
        limit = tl.maximum(limit, _search_among(key, weight, top, tl.minimum(top_p * whole, mine)))
    drawn = tl.where(there & (x >= limit), x + gumbel_noise_at(seed, position, token), float("-inf"))
    return tl.min(tl.where(drawn == tl.max(drawn, 0), token, VOCAB), 0), decided


@triton.jit
def _choose_kernel(
    logits, scratch, temperatures, top_ks, top_ps, min_ps, seeds, positions,
    part_max, part_sum, part_top, part_mass, part_best, part_token, groups, values, ids, tokens, logprobs, ranks,
    stride, greedy_below,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PADDED: tl.constexpr, GROUP: tl.constexpr,
    PADDED_GROUPS: tl.constexpr, BASIS: tl.constexpr, ROOM: tl.constexpr, SEARCH: tl.constexpr,
    FILTERED: tl.constexpr,
):  # fmt: skip
    """One row: join its chunks, search its filters' limit if it has any, and write token and log-probability."""
    row = tl.program_id(0)
    i = tl.arange(0, PADDED)
    part = row * CHUNKS + i
    mask = i < CHUNKS
    tops = tl.load(part_max + part, mask=mask, other=float("-inf"))
    top = tl.max(tops, 0)
    total = tl.sum(tl.load(part_sum + part, mask=mask, other=0.0) * tl.exp(tops - top), 0)
    best, index = tl.max(
        tl.load(part_best + part, mask=mask, other=float("-inf")),
        0,
        return_indices=True,
        return_indices_tie_break_left=True,
    )
    token = tl.load(part_token + row * CHUNKS + index)
    if FILTERED:
        top_k, top_p, min_p = tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row)
        filters = ((top_k > 0) & (top_k < VOCAB)) | (top_p < 1) | (min_p > 0)
        if filters & (tl.load(temperatures + row) >= greedy_below):
            mine = scratch + row.to(tl.int64) * VOCAB
            peaks = tl.load(part_top + part, mask=mask, other=float("-inf"))
            peak = tl.max(peaks, 0)
            mass = tl.sum(tl.load(part_mass + part, mask=mask, other=0.0) * tl.exp(peaks - peak), 0)
            seed, position = tl.load(seeds + row), tl.load(positions + row)
            room = row.to(tl.int64) * ROOM
            PER_ROW: tl.constexpr = CHUNKS * (CHUNK // GROUP)
            token, decided = _choose_among(
                mine, part_top + row * CHUNKS, groups + row.to(tl.int64) * PER_ROW, values + room, ids + room, peak, mass,
                top_k, top_p, min_p, seed, position, VOCAB, CHUNK, PER_ROW, PADDED_GROUPS, BASIS, ROOM,
            )  # fmt: skip
            if decided == 0:
                limit = _keep(mine, peak, top_k, top_p, min_p, VOCAB, SEARCH)
                token = _draw(mine, limit, seed, position, VOCAB, SEARCH)
    chosen = tl.load(logits + row.to(tl.int64) * stride + token).to(tl.float32)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(logprobs + row, chosen - top - tl.log(total))
    tl.store(ranks + row, 1)


@triton.jit
def _rank_kernel(logits, tokens, ranks, stride, VOCAB: tl.constexpr, CHUNK: tl.constexpr):
    """Count the tokens of one chunk that are likelier than the chosen one."""
    row = tl.program_id(0)
    token = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    mine = logits + row.to(tl.int64) * stride
    x = tl.load(mine + token, mask=token < VOCAB, other=float("-inf")).to(tl.float32)
    likelier = tl.sum((x > tl.load(mine + tl.load(tokens + row)).to(tl.float32)).to(tl.int32), 0)
    if likelier > 0:
        tl.atomic_add(ranks + row, likelier)


def sample(logits: torch.Tensor, rows: SamplingRows, filtered: bool, ranked: bool = True) -> Sampled:
    """Draw a token per row; ``kernels.sample.sample`` says what is drawn. Fit for capture in a CUDA graph.

    Args:
        logits: [rows, vocab], rows contiguous.
        rows: parameters.
        filtered: whether any row may have top_k, top_p or min_p.
        ranked: whether to count ranks; they are 1 otherwise.
    """
    count, vocab = logits.shape
    chunks = triton.cdiv(vocab, VOCAB_CHUNK)

    def floats(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=logits.device)

    scratch = floats(count, vocab) if filtered else logits
    part_max, part_sum, part_top, part_mass, part_best = (floats(count, chunks) for _ in range(5))
    part_token = torch.empty(count, chunks, dtype=torch.int32, device=logits.device)
    parts = (part_max, part_sum, part_top, part_mass, part_best, part_token)
    groups = floats(count, chunks * (VOCAB_CHUNK // GROUP)) if filtered else part_max
    values = floats(count, CANDIDATES) if filtered else part_max
    ids = torch.empty_like(values, dtype=torch.int32)
    tokens = torch.empty(count, dtype=torch.int64, device=logits.device)
    ranks = torch.empty(count, dtype=torch.int32, device=logits.device)
    logprobs = floats(count)
    parameters = (rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seeds, rows.positions)
    penalised = rows.occurrences is not None
    penalties = (rows.occurrences, rows.states, rows.presence, rows.frequency, rows.repetition)
    unread = tuple(rows.temperature if p is None else p for p in penalties)
    _scan_kernel[(count, chunks)](
        logits, scratch, *unread, *parameters, *parts, groups, logits.stride(0), GREEDY_BELOW, VOCAB=vocab, CHUNK=VOCAB_CHUNK, CHUNKS=chunks, GROUP=GROUP, PENALISED=penalised,
        FILTERED=filtered, num_warps=8,
    )  # fmt: skip
    _choose_kernel[(count,)](
        logits, scratch, *parameters, *parts, groups, values, ids, tokens, logprobs, ranks, logits.stride(0), GREEDY_BELOW, VOCAB=vocab, CHUNK=VOCAB_CHUNK, CHUNKS=chunks,
        PADDED=triton.next_power_of_2(chunks), GROUP=GROUP,
        PADDED_GROUPS=triton.next_power_of_2(chunks * (VOCAB_CHUNK // GROUP)), BASIS=min(BASIS, max(vocab // GROUP // 2, 1)), ROOM=CANDIDATES,
        SEARCH=SEARCH_CHUNK, FILTERED=filtered, num_warps=16 if filtered else 1,
    )  # fmt: skip
    if ranked:
        _rank_kernel[(count, chunks)](
            logits, tokens, ranks, logits.stride(0), VOCAB=vocab, CHUNK=VOCAB_CHUNK, num_warps=8
        )
    return Sampled(tokens, logprobs, ranks)
