"""Packed masks over the vocabulary, a bit per token."""

from __future__ import annotations

import torch


def apply_bitmask(logits: torch.Tensor, rows: torch.Tensor, words: torch.Tensor) -> None:
    """In place: -inf where a token's bit is 0; where nothing would be left of a row, 0 where its bit is 1.

    So the mask has the last word: what was ruled out before yields where a row could not go on otherwise.

    Args:
        logits: [all, vocab] float32
        rows: [rows] int64, those that have a mask.
        words: [rows, at least ceil(vocab / 32)] int32; bit ``i % 32`` of word ``i // 32`` is token ``i``'s.
    """
    if logits.is_cuda:
        from kernels.cuda import bitmask as cuda

        cuda.apply_bitmask(logits, rows, words)
    elif logits.is_contiguous():
        from kernels.cpu import bitmask as cpu
        from kernels.cpu.numeric import array, use_threads

        use_threads(rows.numel() * logits.shape[1], per_thread=1 << 16)
        cpu.apply_bitmask(array(logits), array(rows), array(words))
    else:
        logits[rows] = reference(logits[rows], words)


def reference(logits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """The masked logits, in torch: [rows, vocab]."""
    shifts = torch.arange(32, dtype=torch.int32, device=words.device)
    bits = (words[:, :, None] >> shifts) & 1  # [rows, words, 32]
    allowed = bits.flatten(1)[:, : logits.shape[1]] == 1
    masked = logits.masked_fill(~allowed, float("-inf"))
    nothing = masked.amax(-1, keepdim=True) == float("-inf")
    return masked.masked_fill(nothing & allowed, 0.0)
