# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The work list of decode attention: pieces of fixed size, listed on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier
from kernels.cuda.numerics import PIECE


@dataclass(frozen=True)
class DecodePlan:
    """Work list and scratch memory of decode attention: allocated once, filled by ``plan_decode`` in every step.

    A plan fits all layers of one window. ``pieces`` bounds the sum over sequences of ceil(context / PIECE); the caller,
    who knows the lengths, must keep to it, for nothing on the device can raise.
    """

    items: torch.Tensor  # [pieces, 4] int32: sequence, piece, context, scratch slot
    starts: torch.Tensor  # [sequences + 1] int32: first scratch slot of each sequence
    counts: torch.Tensor  # [1] int32: items in use
    tops: torch.Tensor  # [pieces, heads] float32
    totals: torch.Tensor  # [pieces, heads] float32
    sums: torch.Tensor  # [pieces, heads, head_dim] float32
    window: int


def allocate_plan(
    sequences: int, pieces: int, heads: int, head_dim: int, window: int, device: torch.device
) -> DecodePlan:
    """Allocate a plan for at most ``sequences`` sequences whose contexts take ``pieces`` pieces together."""

    def ints(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=device)

    def floats(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    return DecodePlan(
        items=ints(pieces, 4),
        starts=ints(sequences + 1),
        counts=ints(1),
        tops=floats(pieces, heads),
        totals=floats(pieces, heads),
        sums=floats(pieces, heads, head_dim),
        window=window,
    )


@triton.jit
def first_piece(context, window, PIECE_: tl.constexpr):
    """The first piece that the last token of a context sees."""
    return tl.where(window > 0, tl.maximum(context - window, 0) // PIECE_, 0)


@triton.jit
def _plan_kernel(
    contexts,
    shared,
    items,
    starts,
    counts,
    sequences,
    window,
    SEQUENCES: tl.constexpr,
    PIECE_: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Program i counts the pieces of the sequences before i, then lists its own."""
    wait_for_earlier(EARLY)
    sequence = tl.program_id(0)
    i = tl.arange(0, SEQUENCES)
    context = tl.load(contexts + i, mask=i < sequences, other=0)
    first = first_piece(context, window, PIECE_)
    pieces = (context + PIECE_ - 1) // PIECE_ - first
    common = tl.load(shared + i, mask=i < sequences, other=0)
    own = pieces - tl.minimum(tl.maximum(common - first, 0), pieces)
    slot = tl.sum(tl.where(i < sequence, pieces, 0))
    item = tl.sum(tl.where(i < sequence, own, 0))
    tl.store(starts + sequence, slot)
    if sequence == sequences - 1:
        tl.store(starts + sequences, tl.sum(pieces))
        tl.store(counts, tl.sum(own))
    mine = tl.sum(tl.where(i == sequence, own, 0))
    common = tl.sum(tl.where(i == sequence, pieces, 0)) - mine
    begin = tl.sum(tl.where(i == sequence, first, 0)) + common
    context = tl.sum(tl.where(i == sequence, context, 0))
    for j in range(0, mine, SEQUENCES):
        record = items + (item + j + i) * 4
        mask = j + i < mine
        tl.store(record, sequence, mask=mask)
        tl.store(record + 1, begin + j + i, mask=mask)
        tl.store(record + 2, context, mask=mask)
        tl.store(record + 3, slot + common + j + i, mask=mask)


def plan_decode(plan: DecodePlan, context_lens: torch.Tensor, shared_pieces: torch.Tensor) -> None:
    """List the work of a step on the device: one launch, no synchronisation.

    Args:
        plan: written.
        context_lens: [sequences] int32, this step's token included; 0 for rows of a batch bucket that are not in use.
        shared_pieces: [sequences] int32, leading pieces that ``shared_prefix_attention`` computes; at most
            (context - 1) // PIECE, so that every sequence keeps a piece of its own.
    """
    sequences = context_lens.shape[0]
    _plan_kernel[(sequences,)](
        context_lens,
        shared_pieces,
        plan.items,
        plan.starts,
        plan.counts,
        sequences,
        plan.window,
        SEQUENCES=triton.next_power_of_2(sequences),
        PIECE_=PIECE,
        num_warps=4,
        **launch_arguments(starts_early(context_lens.device)),
    )
