"""Packed masks over the vocabulary, a bit per token."""

from __future__ import annotations

import torch


def apply_bitmask(logits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """-inf where a token's bit is 0.

    Args:
        logits: [rows, vocab]
        words: [rows, ceil(vocab / 32)] int32; bit ``i % 32`` of word ``i // 32`` is token ``i``'s.

    Returns:
        [rows, vocab]
    """
    shifts = torch.arange(32, dtype=torch.int32, device=words.device)
    bits = (words[:, :, None] >> shifts) & 1  # [rows, words, 32]
    return logits.masked_fill(bits.flatten(1)[:, : logits.shape[1]] == 0, float("-inf"))
