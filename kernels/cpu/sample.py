"""The draw on the CPU: min_p, top_k and top_p without sorting the row, and noise without a logarithm per token.

A row's logits are counted in bins by their distance from the greatest, and only the bin where top_k or top_p ends is
sorted. The noise of the tokens that are left is computed approximately, in vector instructions, and exactly, as
``kernels.noise`` has it, for those alone that could win: mostly one, which then needs none. So the tokens are exactly
those of the exact noise.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch

from kernels.cpu.noise import NOISE_ERROR, nearby_noise, philox
from kernels.cpu.numeric import FLAGS, LANES, LOG2E, PARALLEL, exp2, use_threads
from kernels.noise import to_gumbel
from kernels.sample import GREEDY_BELOW, SamplingRows

BINS = 512
PER_NAT = 16  # bins; the last one holds everything further than 32 from the greatest
ROOM = 64  # tokens of one row that may be within the noise's error of each other
SPARSE = 16  # rows that keep less than one token in so many compute noise one by one

_NEVER = np.float32(-np.inf)
_LOW = np.uint64(0xFFFFFFFF)


@numba.njit(**FLAGS)
def _greatest(values: Any) -> Any:
    """The maximum, in lanes, so that it is compiled to vector instructions."""
    lanes = np.full(LANES, _NEVER, np.float32)
    whole = values.size // LANES * LANES
    rows = values[:whole].reshape(-1, LANES)
    for i in range(rows.shape[0]):
        for lane in range(LANES):
            lanes[lane] = rows[i, lane] if rows[i, lane] > lanes[lane] else lanes[lane]
    best = _NEVER
    for value in lanes:
        best = value if value > best else best
    for value in values[whole:]:
        best = value if value > best else best
    return best


@numba.njit(**FLAGS)
def _first(values: Any, wanted: Any) -> Any:
    """Index of the first of equals; 0 where there is none (all are NaN)."""
    for i in range(values.size):
        if values[i] == wanted:
            return i
    return 0


@numba.njit(**FLAGS)
def _bin(distance: Any) -> Any:
    return np.int64(min(distance * np.float32(PER_NAT), np.float32(BINS - 1)))


@numba.njit(**FLAGS)
def _descending(y: Any, peak: Any, wanted: Any, limit: Any) -> Any:
    """Values from ``limit`` on that are in bin ``wanted``, the greatest first."""
    count = 0
    values = np.empty(y.size, np.float32)
    for i in range(y.size):
        if y[i] >= limit and y[i] > _NEVER and _bin(peak - y[i]) == wanted:
            values[count] = -y[i]
            count += 1
    return -np.sort(values[:count])


@numba.njit(**FLAGS)
def _limit(y: Any, peak: Any, top_k: Any, top_p: Any, limit: Any) -> Any:
    """The least value that top_k and then top_p keep, of those from ``limit`` on."""
    counts = np.zeros(BINS, np.int64)
    masses = np.zeros(BINS, np.float64)
    weights = np.empty(y.size, np.float32)
    for i in range(y.size):
        weights[i] = exp2((y[i] - peak) * LOG2E)
    for i in range(y.size):
        if y[i] >= limit and y[i] > _NEVER:
            b = _bin(peak - y[i])
            counts[b] += 1
            masses[b] += weights[i]
    if 0 < top_k < counts.sum():
        b, before = 0, 0
        while before + counts[b] < top_k:
            before += counts[b]
            b += 1
        ordered = _descending(y, peak, b, limit)
        limit = max(limit, ordered[top_k - before - 1])
        masses[b + 1 :] = 0.0
        masses[b] = 0.0
        for value in ordered:
            if value >= limit:
                masses[b] += exp2((value - peak) * LOG2E)
    if top_p < 1:
        target, covered, b = top_p * masses.sum(), 0.0, 0
        while b < BINS - 1 and covered + masses[b] < target:
            covered += masses[b]
            b += 1
        for value in _descending(y, peak, b, limit):
            covered += exp2((value - peak) * LOG2E)
            limit = value
            if covered >= target:
                break
    return limit


@numba.njit(**FLAGS)
def _sparse(y: Any, limit: Any, seed: Any, position: Any, scores: Any, words: Any) -> Any:
    """Noise for the tokens from ``limit`` on alone."""
    key_0, key_1 = seed & _LOW, seed >> np.uint64(32)
    best = _NEVER
    for i in range(y.size):
        scores[i] = _NEVER
        if y[i] >= limit and y[i] > _NEVER:
            w = philox(np.uint64(i >> 2), position, key_0, key_1)
            part = i & 3
            words[i] = w[0] if part == 0 else w[1] if part == 1 else w[2] if part == 2 else w[3]
            scores[i] = y[i] + nearby_noise(words[i])
            best = max(best, scores[i])
    return best


@numba.njit(**FLAGS)
def _dense(y: Any, limit: Any, seed: Any, position: Any, scores: Any, words: Any) -> Any:
    """Noise for all tokens, four at a time."""
    key_0, key_1 = seed & _LOW, seed >> np.uint64(32)
    fours = words.reshape(-1, 4)
    for i in range(fours.shape[0]):
        a, b, c, d = philox(np.uint64(i), position, key_0, key_1)
        fours[i, 0] = np.uint32(a)
        fours[i, 1] = np.uint32(b)
        fours[i, 2] = np.uint32(c)
        fours[i, 3] = np.uint32(d)
    for i in range(y.size):
        score = y[i] + nearby_noise(words[i])
        scores[i] = score if y[i] >= limit else _NEVER
    return _greatest(scores)


@numba.njit(**PARALLEL)
def _penalise(
    logits: Any, occurrences: Any, states: Any, presence: Any, frequency: Any, repetition: Any, out: Any
) -> None:
    """``kernels.sample.penalise``: logits, out [rows, vocab] float32, the others as in ``SamplingRows``."""
    for row in numba.prange(logits.shape[0]):
        x, seen, y = logits[row], occurrences[states[row]], out[row]
        factor, once, each = repetition[row], presence[row], frequency[row]
        for i in range(x.size):
            value = x[i]
            if seen[i] > 0:
                value = value / factor if value > 0 else value * factor
            output = seen[i] >> 1
            y[i] = value - each * np.float32(output) - (once if output > 0 else np.float32(0))


@numba.njit(**PARALLEL)
def _candidates(
    logits: Any, temperature: Any, top_k: Any, top_p: Any, log_min_p: Any, seeds: Any, positions: Any, found: Any,
    values: Any, words: Any, counts: Any,
) -> None:  # fmt: skip
    """Tokens that may be drawn, with their scaled logits and noise words, in order; more than ROOM if there are more.

    Args:
        logits: [rows, vocab] float32.
        temperature: [rows], like the next ones.
        top_k: 0 for all.
        top_p: 1 for all.
        log_min_p: -inf for all.
        seeds: uint64.
        positions: uint64 of 32 bits.
        found: [rows, ROOM] int64, written.
        values: [rows, ROOM] float32, written.
        words: [rows, ROOM] int64, written.
        counts: [rows] int64, written.
    """
    vocab = logits.shape[1]
    for row in numba.prange(logits.shape[0]):
        peak = _greatest(logits[row])
        token = _first(logits[row], peak)
        found[row, 0] = token
        counts[row] = 1
        if temperature[row] < GREEDY_BELOW:
            continue
        y = logits[row] / temperature[row]
        peak = y[token]
        if not np.isfinite(peak):
            continue  # nothing is left, or there is no distribution
        limit = peak + log_min_p[row]
        if top_k[row] > 0 or top_p[row] < 1:
            limit = _limit(y, peak, top_k[row], top_p[row], limit)
        kept = 0
        for i in range(vocab):
            kept += y[i] >= limit
        scores = np.empty(vocab, np.float32)
        noise_words = np.empty((vocab + 3) // 4 * 4, np.uint32)
        if kept * SPARSE < vocab:
            best = _sparse(y, limit, seeds[row], positions[row], scores, noise_words)
        else:
            best = _dense(y, limit, seeds[row], positions[row], scores, noise_words)
        # Twice the noise's error, and what rounding the sums to float32 adds to it.
        least = best - (np.float32(2) * NOISE_ERROR + abs(best) * np.float32(1e-6))
        count = 0
        for i in range(vocab):
            if scores[i] >= least:
                if count < ROOM:
                    found[row, count], values[row, count], words[row, count] = i, y[i], noise_words[i]
                count += 1
        counts[row] = count


def draw(logits: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """``kernels.sample.draw`` for logits [rows, vocab] float32: tokens [rows] int64."""
    count = logits.shape[0]
    found, words = np.zeros((2, count, ROOM), np.int64)
    values, counts = np.zeros((count, ROOM), np.float32), np.zeros(count, np.int64)
    use_threads(count, 1)
    _candidates(
        _penalised(logits.contiguous().numpy(), rows), rows.temperature.numpy(), rows.top_k.numpy(),
        rows.top_p.numpy(), rows.min_p.log().numpy(), rows.seeds.numpy().view(np.uint64),
        (rows.positions & 0xFFFFFFFF).numpy().view(np.uint64), found, values, words, counts,
    )  # fmt: skip
    tokens = torch.from_numpy(found[:, 0].copy())
    for row in np.flatnonzero(counts > 1).tolist():
        several = min(int(counts[row]), ROOM)
        scores = torch.from_numpy(values[row, :several]) + to_gumbel(torch.from_numpy(words[row, :several]))
        tokens[row] = int(found[row, int(scores.argmax())])
    return tokens


def _penalised(logits: Any, rows: SamplingRows) -> Any:
    if rows.occurrences is None:
        return logits
    fields = (rows.occurrences, rows.states, rows.presence, rows.frequency, rows.repetition)
    arrays = [field.contiguous().numpy() for field in fields if field is not None]
    out = np.empty_like(logits)
    _penalise(logits, *arrays, out)
    return out
