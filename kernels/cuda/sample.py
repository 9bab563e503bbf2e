# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Fused sampling: chunks of the vocabulary side by side, then one program per row that joins them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier
from kernels.cuda.noise import gumbel_noise
from kernels.cuda.numerics import BASIS, GROUP, ROOM, SEARCH_CHUNK, VOCAB_CHUNK
from kernels.cuda.sample_filter import choose_among, collect_kernel, draw_from_row, floor_kernel, whole_row_limit
from kernels.sample import GREEDY_BELOW, Sampled, SamplingRows


@triton.jit
def _scan_kernel(
    logits, scratch, occurrences, states, presence, frequency, repetition, temperatures, top_ks, top_ps, min_ps,
    seeds, positions, part_max, part_sum, part_top, part_mass, part_best, part_token, groups, stride, greedy_below,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, GROUP: tl.constexpr, PENALISED: tl.constexpr,
    FILTERED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One chunk of one row: its share of the log-sum-exp, its processed logits, and its best token."""
    wait_for_earlier(EARLY)
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
def _choose_kernel(
    logits, scratch, temperatures, top_ks, top_ps, min_ps, seeds, positions,
    part_max, part_sum, part_top, part_mass, part_best, part_token, part_count, floors, values, ids, tokens, logprobs,
    ranks, stride, greedy_below,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PADDED: tl.constexpr, ROOM: tl.constexpr,
    PADDED_ROOM: tl.constexpr, SEARCH: tl.constexpr, FILTERED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One row: join its chunks, search its filters' limit if it has any, and write token and log-probability."""
    wait_for_earlier(EARLY)
    row = tl.program_id(0)
    i = tl.arange(0, PADDED)
    part = row * CHUNKS + i
    mask = i < CHUNKS
    tops = tl.load(part_max + part, mask=mask, other=float("-inf"))
    top = tl.max(tops, 0)
    total = tl.sum(tl.load(part_sum + part, mask=mask, other=0.0) * tl.exp(tops - top), 0)
    _best, index = tl.max(
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
            room = row.to(tl.int64) * (CHUNKS * ROOM)
            fits = tl.max(tl.load(part_count + part, mask=mask, other=0), 0) <= ROOM
            token, decided = choose_among(
                values + room, ids + room, tl.load(floors + row), fits, peak, mass, top_k, top_p, min_p, seed, position,
                VOCAB, CHUNKS * ROOM, PADDED_ROOM,
            )  # fmt: skip
            if decided == 0:
                limit = whole_row_limit(mine, peak, top_k, top_p, min_p, VOCAB, SEARCH)
                token = draw_from_row(mine, limit, seed, position, VOCAB, SEARCH)
    chosen = tl.load(logits + row.to(tl.int64) * stride + token).to(tl.float32)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(logprobs + row, chosen - top - tl.log(total))
    tl.store(ranks + row, 1)


@triton.jit
def _rank_kernel(logits, tokens, ranks, stride, VOCAB: tl.constexpr, CHUNK: tl.constexpr, EARLY: tl.constexpr):
    """Count the tokens of one chunk that are likelier than the chosen one."""
    wait_for_earlier(EARLY)
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
    sizes = {"VOCAB": vocab, "CHUNK": VOCAB_CHUNK, "CHUNKS": chunks}
    padded = triton.next_power_of_2(chunks)
    early = launch_arguments(starts_early(logits.device))

    def floats(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=logits.device)

    def ints(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=logits.device)

    scratch = floats(count, vocab) if filtered else logits
    parts = (*tuple(floats(count, chunks) for _ in range(5)), ints(count, chunks))
    groups = floats(count, chunks * (VOCAB_CHUNK // GROUP)) if filtered else parts[0]
    part_count, floors = ints(count, chunks), floats(count)
    values = floats(count, chunks, ROOM) if filtered else parts[0]
    ids = torch.empty_like(values, dtype=torch.int32)
    tokens = torch.empty(count, dtype=torch.int64, device=logits.device)
    logprobs, ranks = floats(count), ints(count)
    parameters = (rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seeds, rows.positions)
    penalties = (rows.occurrences, rows.states, rows.presence, rows.frequency, rows.repetition)
    unread = tuple(rows.temperature if p is None else p for p in penalties)
    _scan_kernel[(count, chunks)](
        logits, scratch, *unread, *parameters, *parts, groups, logits.stride(0), GREEDY_BELOW, **sizes, GROUP=GROUP,
        PENALISED=rows.occurrences is not None, FILTERED=filtered, num_warps=8, **early,
    )  # fmt: skip
    if filtered:
        floor_kernel[(count,)](
            parts[2], groups, floors, rows.top_k, VOCAB=vocab, CHUNKS=chunks, PADDED=padded, GROUPS=groups.shape[1],
            PADDED_GROUPS=triton.next_power_of_2(groups.shape[1]), BASIS=basis(vocab), num_warps=8, **early,
        )  # fmt: skip
        collect_kernel[(count, chunks)](
            scratch, floors, values, ids, part_count, **sizes, ROOM=ROOM, num_warps=8, **early
        )
    _choose_kernel[(count,)](
        logits, scratch, *parameters, *parts, part_count, floors, values, ids, tokens, logprobs, ranks,
        logits.stride(0), GREEDY_BELOW, **sizes, PADDED=padded, ROOM=ROOM,
        PADDED_ROOM=triton.next_power_of_2(chunks * ROOM), SEARCH=SEARCH_CHUNK, FILTERED=filtered,
        num_warps=16 if filtered else 1, **early,
    )  # fmt: skip
    if ranked:
        _rank_kernel[(count, chunks)](
            logits, tokens, ranks, logits.stride(0), VOCAB=vocab, CHUNK=VOCAB_CHUNK, num_warps=8, **early
        )
    return Sampled(tokens, logprobs, ranks)


def basis(vocab: int) -> int:
    """How many groups must reach into the candidates: half of them, or as many as there is room for."""
    return max(1, min(BASIS, vocab // GROUP // 2))
