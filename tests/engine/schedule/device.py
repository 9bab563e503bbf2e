"""A device's memory whose cells know what was written there: plans run on it, and what they read is checked."""

from __future__ import annotations

from typing import Any

from engine.schedule.plan import StepPlan
from engine.schedule.request import Request

# A key depends on the salt (which may stand for an adapter) and on all tokens so far.
Cell = tuple[bytes, tuple[int, ...]]


class Device:
    """Runs plans in the order of their launches: copies out, copies in, all writes, then all reads."""

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
        for part in plan.slices:
            for at in range(part.start, part.stop):
                block = self.blocks.setdefault(part.request.blocks[at // self.block_size], {})
                block[at % self.block_size] = _cell(part.request, at)
        for part in plan.slices:
            for at in range(part.stop):
                cell = self.blocks[part.request.blocks[at // self.block_size]].get(at % self.block_size)
                assert cell == _cell(part.request, at), f"position {at} is read as {cell}"


def _cell(request: Request, at: int) -> Cell:
    return request.salt, tuple(request.tokens(0, at + 1))
