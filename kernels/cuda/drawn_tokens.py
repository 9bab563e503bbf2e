# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Counts and histories of drawn tokens, all requests of a step in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["stride", "width"])  # else compiled anew for other numbers of requests
def _drawn_kernel(drawn, rows, occurrences, history, stride, vocab, width, WIDTH: tl.constexpr):
    """One request."""
    i = tl.program_id(0)
    known = tl.load(rows + stride + i)
    token = tl.load(drawn + tl.load(rows + i), mask=known < 0, other=known.to(tl.int64))
    counting, keeping = tl.load(rows + 2 * stride + i).to(tl.int64), tl.load(rows + 3 * stride + i).to(tl.int64)
    if counting >= 0:
        count = occurrences + counting * vocab + token
        tl.store(count, tl.load(count) + 2)
    if keeping >= 0:
        place = tl.arange(0, WIDTH)
        kept = history + keeping * width + place
        later = tl.load(kept + 1, mask=place + 1 < width, other=0)
        tl.debug_barrier()  # all is read before any of it is written
        tl.store(kept, tl.where(place + 1 < width, later, token), mask=place < width)


def add_drawn_tokens(drawn: torch.Tensor, rows: torch.Tensor, occurrences: torch.Tensor, history: torch.Tensor) -> None:
    """``kernels.drawn_tokens.add_drawn_tokens``."""
    width = history.shape[1]
    _drawn_kernel[(rows.shape[1],)](
        drawn, rows, occurrences, history, rows.stride(0), occurrences.shape[1], width,
        WIDTH=triton.next_power_of_2(width), num_warps=1,
    )  # fmt: skip
