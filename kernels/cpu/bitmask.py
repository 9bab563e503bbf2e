"""Packed masks over the vocabulary on the CPU."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels.cpu.numeric import FLAGS, PARALLEL

_NEVER = np.float32(-np.inf)
_WHOLE = np.uint32(0xFFFFFFFF)


@numba.njit(**FLAGS)
def _anything_left(row: Any, words: Any) -> Any:
    """Whether a token that is allowed has not been ruled out before."""
    for w in range(words.size):
        word = np.uint32(words[w])
        if word != 0:
            for b in range(min(32, row.size - 32 * w)):
                if (word >> np.uint32(b)) & np.uint32(1) and row[32 * w + b] > _NEVER:
                    return True
    return False


@numba.njit(**PARALLEL)
def apply_bitmask(logits: Any, rows: Any, words: Any) -> None:
    """In place: -inf where a token's bit is 0; where nothing would be left of a row, 0 where its bit is 1.

    Args:
        logits: [all, vocab] float32
        rows: [rows] int64, those that have a mask.
        words: [rows, at least ceil(vocab / 32)] int32
    """
    vocab = logits.shape[1]
    for r in numba.prange(rows.size):
        row = logits[rows[r]]
        if not _anything_left(row, words[r]):
            row[:] = np.float32(0)
        for w in range((vocab + 31) // 32):
            word = np.uint32(words[r, w])
            first = 32 * w
            last = min(first + 32, vocab)
            if word == 0:
                row[first:last] = _NEVER
            elif word != _WHOLE:
                for i in range(first, last):
                    if (word >> np.uint32(i - first)) & np.uint32(1) == 0:
                        row[i] = _NEVER
