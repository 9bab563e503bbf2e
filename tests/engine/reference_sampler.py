"""A sampler written to be read: float64, one row and one step of the contract after the other, Philox in plain Python.

It is slow, shares no code with the engine's, and follows the written order of processing to the letter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from engine.schedule.request import Request

Row = np.ndarray[Any, np.dtype[np.float64]]
NEVER = -np.inf


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox-4x32-10 as in Salmon et al. 2011, table 2 and section 3."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k0, second & 0xFFFFFFFF, (first >> 32) ^ c[3] ^ k1, first & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def noise(seed: int, position: int, vocab: int) -> Row:
    """Gumbel noise of every token at a position."""
    words = [
        word
        for block in range(-(-vocab // 4))
        for word in philox((block, position, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    ]
    return np.array([-math.log(-math.log1p(-(word + 0.5) / 2**32)) for word in words[:vocab]])


def processed(logits: np.ndarray[Any, Any], request: Request, grammar: Collection[int] | None = None) -> Row:
    """The logits that the token is drawn from, -inf for tokens that cannot be.

    Args:
        logits: [vocab]
        request: whose next token it is; its whole output is known.
        grammar: the tokens that a grammar allows; ``None`` for all.
    """
    params, output = request.params, request.output
    row = logits.astype(np.float64)
    everything = range(len(row))
    # allowed ids
    if params.allowed_token_ids is not None:
        _forbid(row, [token for token in everything if token not in set(params.allowed_token_ids)])
    # min_tokens
    if len(output) < params.min_tokens:
        _forbid(row, request.stop_ids)
    # logit_bias
    for token, bias in (params.logit_bias or {}).items():
        row[token] += bias
    # penalties: repetition over prompt and output, presence and frequency over the output
    for token in set(request.prompt) | set(output):
        row[token] *= 1 / params.repetition_penalty if row[token] > 0 else params.repetition_penalty
    for token in set(output):
        row[token] -= params.presence_penalty + params.frequency_penalty * output.count(token)
    # bad words
    _forbid(
        row, [w[-1] for w in request.bad_words if output[len(output) - len(w) + 1 :] == list(w[:-1]) or len(w) == 1]
    )
    # the grammar
    if grammar is not None:
        _forbid(row, [token for token in everything if token not in grammar])
    return row if params.greedy else _filtered(row / params.temperature, request)


def _filtered(row: Row, request: Request) -> Row:
    """min_p, then top_k, then top_p; each keeps all tokens as likely as the last one that it keeps."""
    params = request.params
    row = np.where(np.exp(row - row.max()) >= params.min_p, row, NEVER)
    if 0 < params.top_k < len(row):
        row = np.where(row >= np.sort(row)[-params.top_k], row, NEVER)
    covered = 0.0
    for token in np.argsort(-row, kind="stable"):
        covered += shares(row)[token]
        if covered >= params.top_p:
            return np.where(row >= row[token], row, NEVER)
    return row


def _forbid(row: Row, tokens: Collection[int]) -> None:
    row[list(tokens)] = NEVER


def shares(row: Row) -> Row:
    """Probabilities of processed logits."""
    weights: Row = np.exp(row - row.max())
    return weights / weights.sum()


def draw(logits: np.ndarray[Any, Any], request: Request, grammar: Collection[int] | None = None) -> int:
    """The request's next token."""
    row = processed(logits, request, grammar)
    if request.params.greedy:
        return int(np.argmax(row))
    return int(np.argmax(row + noise(request.seed, request.total, len(row))))
