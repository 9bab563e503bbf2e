# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The work list of decode attention: pieces of fixed size, listed on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier
from kernels.cuda.numerics import KEY_TILE, PIECE

LISTED = 64  # sequences that the smallest kernel lists: few sizes are compiled


@dataclass(frozen=True)
class DecodePlan:
    """Work list and scratch memory of decode attention: allocated once, filled by ``plan_decode`` in every step.

    A plan fits all layers of one window. ``pieces`` bounds the sum over sequences of ceil(context / PIECE); the caller,
    who knows the lengths, must keep to it, for nothing on the device can raise.
    """

    tiles: torch.Tensor  # [tiles, 4] int32: sequence, first key, context, scratch slot of its piece
    starts: torch.Tensor  # [sequences + 1] int32: first scratch slot of each sequence
    counts: torch.Tensor  # [1] int32: tiles in use
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
        tiles=ints(pieces * (PIECE // KEY_TILE), 4),
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


@triton.jit(do_not_specialize=["sequences"])
def _plan_kernel(
    contexts,
    shared,
    tiles,
    starts,
    counts,
    sequences,
    window,
    SEQUENCES: tl.constexpr,
    PIECE_: tl.constexpr,
    TILE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Program i counts pieces and tiles of the sequences before i, then lists the tiles of its own."""
    wait_for_earlier(EARLY)
    sequence = tl.program_id(0)
    i = tl.arange(0, SEQUENCES)
    context = tl.load(contexts + i, mask=i < sequences, other=0)
    first = first_piece(context, window, PIECE_)
    pieces = (context + PIECE_ - 1) // PIECE_ - first
    common = tl.load(shared + i, mask=i < sequences, other=0)
    hidden = tl.minimum(tl.maximum(tl.abs(common) - first, 0), pieces)  # computed elsewhere, in as many slots or in one
    own = pieces - hidden
    slots = own + tl.where(common < 0, tl.minimum(hidden, 1), hidden)
    slot = tl.sum(tl.where(i < sequence, slots, 0))
    listed = tl.maximum((context + TILE - 1) // TILE - (first + hidden) * (PIECE_ // TILE), 0)
    tile = tl.sum(tl.where(i < sequence, listed, 0))
    tl.store(starts + sequence, slot)
    if sequence == sequences - 1:
        tl.store(starts + sequences, tl.sum(slots))
        tl.store(counts, tl.sum(listed))
    mine = tl.sum(tl.where(i == sequence, listed, 0))
    begin = tl.sum(tl.where(i == sequence, first + hidden, 0)) * PIECE_
    slot += tl.sum(tl.where(i == sequence, slots - own, 0))
    context = tl.sum(tl.where(i == sequence, context, 0))
    for j in range(0, mine, SEQUENCES):
        record = tiles + (tile + j + i) * 4
        mask = j + i < mine
        tl.store(record, sequence, mask=mask)
        tl.store(record + 1, begin + (j + i) * TILE, mask=mask)
        tl.store(record + 2, context, mask=mask)
        tl.store(record + 3, slot + (j + i) // (PIECE_ // TILE), mask=mask)


def plan_decode(plan: DecodePlan, context_lens: torch.Tensor, shared_pieces: torch.Tensor) -> None:
    """List the work of a step on the device: one launch, no synchronisation.

    Args:
        plan: written.
        context_lens: [sequences] int32, this step's token included; 0 for rows of a batch bucket that are not in use.
        shared_pieces: [sequences] int32, leading pieces that ``shared_prefix_attention`` computes (negative where it
            merges them); at most (context - 1) // PIECE, so that every sequence keeps a piece of its own.
    """
    sequences = context_lens.shape[0]
    _plan_kernel[(sequences,)](
        context_lens,
        shared_pieces,
        plan.tiles,
        plan.starts,
        plan.counts,
        sequences,
        plan.window,
        SEQUENCES=max(LISTED, triton.next_power_of_2(sequences)),
        PIECE_=PIECE,
        TILE=KEY_TILE,
        num_warps=4,
        **launch_arguments(starts_early(context_lens.device)),
    )
