# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
"""Fused sampling without sorting: chunks of the vocabulary side by side, filters by bisection on the bits of float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.cuda.numerics import VOCAB_CHUNK
from kernels.sample import GREEDY_BELOW, Sampled, SamplingRows


@triton.jit
def gumbel_noise(seed, position, start, CHUNK: tl.constexpr):
    """Noise of tokens start:start + CHUNK, the words of ``kernels.noise``: Philox word token % 4 of counter token // 4."""
    counter = start // 4 + tl.arange(0, CHUNK // 4)
    zero = counter * 0
    place = (position & 0xFFFFFFFF).to(tl.uint32, bitcast=False) + zero.to(tl.uint32)
    a, b, c, d = tl.philox(seed, counter, place, zero, zero)
    words = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [CHUNK])
    uniform = tl.minimum((words.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    # -log(1 - u): near 0, where the largest noise comes from, by its series, which keeps every bit of u.
    series = uniform * (1.0 + uniform * (0.5 + uniform * (0.33333334 + uniform * 0.25)))
    return -tl.log(tl.where(uniform < 0.0009765625, series, -tl.log(1.0 - uniform)))


@triton.jit
def _order(x):
    """Integers in the order of float32 numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _scan_kernel(
    logits, scratch, occurrences, states, presence, frequency, repetition, temperatures, top_ks, top_ps, min_ps,
    seeds, positions, part_max, part_sum, part_top, part_best, part_token, stride, greedy_below,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PENALISED: tl.constexpr, FILTERED: tl.constexpr,
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
        tl.store(part_top + part, tl.max(x, 0))
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
def _choose_kernel(
    logits, scratch, temperatures, top_ks, top_ps, min_ps, seeds, positions,
    part_max, part_sum, part_top, part_best, part_token, tokens, logprobs, ranks, stride, greedy_below,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PADDED: tl.constexpr, FILTERED: tl.constexpr,
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
            peak = tl.max(tl.load(part_top + part, mask=mask, other=float("-inf")), 0)
            limit = _keep(mine, peak, top_k, top_p, min_p, VOCAB, CHUNK)
            token = _draw(mine, limit, tl.load(seeds + row), tl.load(positions + row), VOCAB, CHUNK)
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
    part_max, part_sum, part_top, part_best = (floats(count, chunks) for _ in range(4))
    part_token = torch.empty(count, chunks, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(count, dtype=torch.int64, device=logits.device)
    ranks = torch.empty(count, dtype=torch.int32, device=logits.device)
    logprobs = floats(count)
    parameters = (rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seeds, rows.positions)
    penalised = rows.occurrences is not None
    penalties = (rows.occurrences, rows.states, rows.presence, rows.frequency, rows.repetition)
    unread = tuple(rows.temperature if p is None else p for p in penalties)
    _scan_kernel[(count, chunks)](
        logits, scratch, *unread, *parameters, part_max, part_sum, part_top, part_best, part_token,
        logits.stride(0), GREEDY_BELOW, VOCAB=vocab, CHUNK=VOCAB_CHUNK, CHUNKS=chunks, PENALISED=penalised,
        FILTERED=filtered, num_warps=8,
    )  # fmt: skip
    _choose_kernel[(count,)](
        logits, scratch, *parameters, part_max, part_sum, part_top, part_best, part_token, tokens, logprobs, ranks,
        logits.stride(0), GREEDY_BELOW, VOCAB=vocab, CHUNK=VOCAB_CHUNK, CHUNKS=chunks,
        PADDED=triton.next_power_of_2(chunks), FILTERED=filtered, num_warps=16 if filtered else 1,
    )  # fmt: skip
    if ranked:
        _rank_kernel[(count, chunks)](
            logits, tokens, ranks, logits.stride(0), VOCAB=vocab, CHUNK=VOCAB_CHUNK, num_warps=8
        )
    return Sampled(tokens, logprobs, ranks)
