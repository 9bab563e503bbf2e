"""Gumbel noise for sampling, a pure function of (seed, position, token): nothing in it depends on the batch.

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with key = the seed's two words and
counter = (token // 4, position, 0, 0); word ``token % 4`` of its result, as a uniform number u in (0, 1), goes through
-log(-log(1 - u)).
"""

from __future__ import annotations

import torch

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
LARGEST = 1 - 2.0**-24  # the float32 before 1


def gumbel(seeds: torch.Tensor, positions: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise for every token of the vocabulary.

    Args:
        seeds: [rows] int64.
        positions: [rows] int64, the position in the sequence that the token will take.
        vocab_size: number of tokens.

    Returns:
        [rows, vocab_size] float32
    """
    counters = -(-vocab_size // 4)
    words = philox(seeds, positions, counters)[:, :vocab_size]  # [rows, vocab]
    return to_gumbel(words)


def to_gumbel(words: torch.Tensor) -> torch.Tensor:
    """Noise of Philox words, int64, in float32."""
    # Large noise comes from small u, where float32 keeps all 32 bits; near 1 it rounds, and 1 itself would give -inf.
    uniform = ((words.float() + 0.5) * 2.0**-32).clamp_max(LARGEST)
    return -(-(-uniform).log1p()).log()


def philox(seeds: torch.Tensor, positions: torch.Tensor, counters: int) -> torch.Tensor:
    """Philox words for counters (0..counters, position, 0, 0), in order.

    Returns:
        [rows, 4 * counters] int64, each a 32-bit word
    """
    key0, key1 = (seeds & WORD)[:, None], ((seeds >> 32) & WORD)[:, None]
    c0 = torch.arange(counters, device=seeds.device)[None, :].expand(seeds.shape[0], -1)
    c1 = (positions & WORD)[:, None].expand_as(c0)
    c2 = c3 = torch.zeros_like(c0)
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + KEY_STEPS[0]) & WORD, (key1 + KEY_STEPS[1]) & WORD
    return torch.stack((c0, c1, c2, c3), dim=-1).flatten(1)


def _multiply(words: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32-bit words of a 32 x 32 bit product, in int64 without overflow: the factor goes in two halves."""
    upper = words * (factor >> 16)  # at most 48 bits
    lower = words * (factor & 0xFFFF)
    total = ((upper & 0xFFFF) << 16) + lower
    return ((upper >> 16) + (total >> 32)) & WORD, total & WORD
