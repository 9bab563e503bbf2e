"""A device's memory whose cells know what was written there: plans run on it, and what they read is checked."""

from __future__ import annotations

from typing import Any

from engine.schedule.plan import Slice, StepPlan

# A key depends on the salt (which may stand for an adapter) and on all tokens so far.
Cell = tuple[bytes, tuple[int, ...]]


class Device:
    """Runs plans in the order of their launches: copies out, in and within, all writes, then all reads."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.blocks: dict[int, dict[int, Any]] = {}
        self.slots: dict[int, dict[int, Any]] = {}
        self.copied = 0

    def execute(self, plan: StepPlan) -> None:
        """One step.

        Raises:
            AssertionError: a slice would read a key that is another's, or that was never written.
        """
        for block, slot in plan.swap_out:
            self.slots[slot] = dict(self.blocks[block])
        for block, slot in plan.swap_in:
            self.blocks[block] = dict(self.slots[slot])
        self.copied += len(plan.swap_out) + len(plan.swap_in)
        read = [dict(self.blocks[source]) for source, _ in plan.copies]
        for (_, target), cells in zip(plan.copies, read, strict=True):
            self.blocks[target] = cells
        for part in plan.computing:
            for at, cell in enumerate(_cells(plan, part)[part.start :], start=part.start):
                block = self.blocks.setdefault(part.request.blocks[at // self.block_size], {})
                block[at % self.block_size] = cell
        for part in plan.computing:
            for at, expected in enumerate(_cells(plan, part)):
                cell = self.blocks[part.request.blocks[at // self.block_size]].get(at % self.block_size)
                assert cell == expected, f"position {at} is read as {cell}"
        for part in plan.forked:  # logits are those of the leader's last token
            (leader,) = (other for other in plan.computing if other.request is plan.forks[part.request])
            assert part.start == part.stop == leader.request.total
            assert _cells(plan, part) == _cells(plan, leader)[: part.stop]


def _cells(plan: StepPlan, part: Slice) -> list[Cell]:
    """What each position up to the slice's end must hold, drafts included."""
    request = part.request
    tokens = (*request.tokens(0, request.total), *plan.drafts.get(request, ()))
    return [(request.salt, tokens[: at + 1]) for at in range(part.stop)]
