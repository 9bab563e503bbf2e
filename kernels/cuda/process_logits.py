# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Offsets, tokens and patterns that are ruled out, for all rows of a step in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier
from kernels.process_logits import LogitsEdits

CHUNK = 4096  # tokens of one program
LIST = 64  # entries of a list that it looks at together


@triton.jit(do_not_specialize=["width"])
def _process_kernel(
    logits, out, sources, offset_rows, offsets, token_begins, tokens, history_rows, history, pattern_begins, before,
    last, stride, width,
    VOCAB: tl.constexpr, CHUNK: tl.constexpr, LIST: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One chunk of one row: copied with what is added, then those of the row's lists that lie in it ruled out."""
    wait_for_earlier(EARLY)
    row, start = tl.program_id(0), tl.program_id(1) * CHUNK
    token = start + tl.arange(0, CHUNK)
    live = token < VOCAB
    x = tl.load(logits + tl.load(sources + row).to(tl.int64) * stride + token, mask=live, other=0.0).to(tl.float32)
    offset = tl.load(offset_rows + row).to(tl.int64)
    if offset >= 0:
        x += tl.load(offsets + offset * VOCAB + token, mask=live, other=0.0)
    mine = out + row.to(tl.int64) * VOCAB
    tl.store(mine + token, x, mask=live)
    first, end = tl.load(token_begins + row), tl.load(token_begins + row + 1)
    first_pattern, end_pattern = tl.load(pattern_begins + row), tl.load(pattern_begins + row + 1)
    if (first < end) | (first_pattern < end_pattern):
        tl.debug_barrier()  # the copy is written by other threads than those that write over it
        for begin in range(first, end, LIST):
            i = begin + tl.arange(0, LIST)
            banned = tl.load(tokens + i, mask=i < end, other=-1)
            tl.store(mine + banned, float("-inf"), mask=(banned >= start) & (banned < start + CHUNK))
        place = tl.arange(0, WIDTH)
        kept = history + tl.load(history_rows + row).to(tl.int64) * width
        for begin in range(first_pattern, end_pattern, LIST):
            i = begin + tl.arange(0, LIST)
            wanted = tl.load(
                before + i[:, None] * width + place[None, :],
                mask=(i < end_pattern)[:, None] & (place < width)[None, :],
                other=-1,
            )
            recent = tl.load(kept + place, mask=place < width, other=-1)
            wrong = tl.sum(((wanted >= 0) & (wanted != recent[None, :])).to(tl.int32), 1)
            banned = tl.load(last + i, mask=(i < end_pattern) & (wrong == 0), other=-1)
            tl.store(mine + banned, float("-inf"), mask=(banned >= start) & (banned < start + CHUNK))


def process_logits(logits: torch.Tensor, edits: LogitsEdits) -> torch.Tensor:
    """``kernels.process_logits.process_logits``; a row of logits must be contiguous in itself."""
    rows, vocab = edits.sources.shape[0], logits.shape[1]
    width = edits.history.shape[1]
    out = torch.empty(rows, vocab, dtype=torch.float32, device=logits.device)
    _process_kernel[(rows, triton.cdiv(vocab, CHUNK))](
        logits, out, edits.sources, edits.offset_rows, edits.offsets, edits.token_begins, edits.tokens,
        edits.history_rows, edits.history, edits.pattern_begins, edits.before, edits.last, logits.stride(0), width,
        VOCAB=vocab, CHUNK=CHUNK, LIST=LIST, WIDTH=triton.next_power_of_2(width), num_warps=8,
        **launch_arguments(starts_early(logits.device)),
    )  # fmt: skip
    return out
