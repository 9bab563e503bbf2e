"""Which blocks of host memory are free."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class SwapSlots:
    """Hands out host slots ``0 .. size-1``, lowest first, so that a request's slots mostly follow one another."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = list(range(size))

    @property
    def held(self) -> int:
        """Slots that hold a preempted request's block."""
        return self.size - len(self._free)

    def allocate(self, count: int) -> list[int] | None:
        """Take ``count`` slots, or ``None`` when there are not so many free."""
        if count > len(self._free):
            return None
        return [heapq.heappop(self._free) for _ in range(count)]

    def release(self, slots: Sequence[int]) -> None:
        """Give slots back. Copies run in the order of the plans, so what is in a slot is read before it is replaced."""
        for slot in slots:
            heapq.heappush(self._free, slot)
