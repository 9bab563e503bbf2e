# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Packed masks over the vocabulary, all rows of a step in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier

CHUNK = 8192  # tokens that one program masks, and that it looks at together; results do not depend on it


@triton.jit
def _allowed(packed, token, VOCAB: tl.constexpr):
    """Which tokens have their bit; none behind the vocabulary's end."""
    word = tl.load(packed + token // 32, mask=token < VOCAB, other=0)
    return ((word >> (token % 32)) & 1) == 1


@triton.jit
def _anything_left(row, packed, VOCAB: tl.constexpr, CHUNK: tl.constexpr, PADDED_WORDS: tl.constexpr):
    """1 where a token that is allowed has not been ruled out before: from the first word on that allows any."""
    WORDS: tl.constexpr = (VOCAB + 31) // 32
    i = tl.arange(0, PADDED_WORDS)
    word = tl.load(packed + i, mask=i < WORDS, other=0)
    start = tl.min(tl.where(word != 0, i, WORDS), 0) * 32
    end = (tl.max(tl.where(word != 0, i, -1), 0) + 1) * 32
    left = 0
    while (left == 0) & (start < end):
        token = start + tl.arange(0, CHUNK)
        x = tl.load(row + token, mask=_allowed(packed, token, VOCAB), other=float("-inf"))
        left = tl.max((x != float("-inf")).to(tl.int32), 0)
        start += CHUNK
    return left


@triton.jit
def _bitmask_kernel(
    logits, rows, words, stride, words_stride, VOCAB: tl.constexpr, CHUNK: tl.constexpr, PADDED_WORDS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One chunk of one masked row; the row's first program writes all of it where nothing would be left.

    So it does not matter that a row's programs look at what others of them write: these write -inf where no token is
    allowed, which nobody looks at, and zeros only after which -inf is right for all other tokens.
    """
    wait_for_earlier(EARLY)
    i, chunk = tl.program_id(0), tl.program_id(1)
    row = logits + tl.load(rows + i).to(tl.int64) * stride
    packed = words + i.to(tl.int64) * words_stride
    if _anything_left(row, packed, VOCAB, CHUNK, PADDED_WORDS) != 0:
        token = chunk * CHUNK + tl.arange(0, CHUNK)
        ruled_out = (token < VOCAB) & (_allowed(packed, token, VOCAB) == 0)
        tl.store(row + token, float("-inf"), mask=ruled_out)
    elif chunk == 0:
        for start in range(0, VOCAB, CHUNK):
            token = start + tl.arange(0, CHUNK)
            value = tl.where(_allowed(packed, token, VOCAB), 0.0, float("-inf"))
            tl.store(row + token, value, mask=token < VOCAB)


def apply_bitmask(logits: torch.Tensor, rows: torch.Tensor, words: torch.Tensor) -> None:
    """``kernels.bitmask.apply_bitmask``; a row of logits and of words must be contiguous in itself."""
    vocab = logits.shape[1]
    _bitmask_kernel[(rows.shape[0], triton.cdiv(vocab, CHUNK))](
        logits, rows, words, logits.stride(0), words.stride(0), VOCAB=vocab, CHUNK=CHUNK,
        PADDED_WORDS=triton.next_power_of_2(triton.cdiv(vocab, 32)), num_warps=8,
        **launch_arguments(starts_early(logits.device)),
    )  # fmt: skip
