"""Which blocks a request has: shared from the prefix cache, allocated, given back, or moved to host memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.schedule.block_pool import BlockPool
from engine.schedule.limits import Limits
from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.request import Request
from engine.schedule.swap_slots import SwapSlots

Pairs = tuple[tuple[int, int], ...]  # (device block, host slot)


class KVManager:
    """Owns block pool, prefix cache and host slots; the only one to change a request's ``blocks`` and ``slots``.

    A block that is released may still be written by a launched step, and one that is copied to the host may still have
    to be written: steps run in order, and a step's copies run before its kernels, outwards before inwards.
    """

    def __init__(self, limits: Limits) -> None:
        self.pool = BlockPool(limits.blocks)
        self.cache = PrefixCache(self.pool, limits.block_size, limits.prefix_caching)
        self.slots = SwapSlots(limits.swap_slots)
        self.limits = limits
        self._size = limits.block_size
        self._out: list[tuple[int, int]] = []
        self._in: list[tuple[int, int]] = []
        self.swapped_out = 0
        self.swapped_in = 0

    def begin(self, request: Request, shared: Sequence[int], stop: int) -> bool:
        """Give a waiting request its blocks up to token ``stop``.

        The first are ``shared``, found by the prefix cache; what is on the host of those after them comes back. False
        leaves everything as it was.
        """
        for block in shared:
            self.pool.share(block)
        request.blocks = list(shared)
        if not self.grow(request, stop):
            self.pool.release(shared)
            request.blocks = []
            return False
        request.published = len(shared)
        back = [(request.blocks[n], request.slots[n]) for n in range(len(shared), len(request.slots))]
        self._in += back
        self.swapped_in += len(back)
        self.slots.release(request.slots)
        request.slots = []
        return True

    def grow(self, request: Request, tokens: int) -> bool:
        """Extend the request's blocks to hold ``tokens`` tokens, if there are enough free ones."""
        missing = -(-tokens // self._size) - len(request.blocks)
        if missing <= 0:
            return True
        blocks = self.pool.allocate(missing)
        if blocks is None:
            return False
        request.blocks = request.blocks + blocks
        return True

    def preempt(self, request: Request) -> bool:
        """Take the request's blocks; whether what they hold is kept on the host."""
        used = -(-request.computed // self._size)
        slots = self.slots.allocate(used) if self.slots.size and used else None
        if slots is not None:
            self._out += zip(request.blocks, slots, strict=False)
            self.swapped_out += used
            request.slots = slots
        self._release_blocks(request)
        return slots is not None

    def release(self, request: Request) -> None:
        """Take everything that a finished request holds."""
        self._release_blocks(request)
        self.slots.release(request.slots)
        request.slots = []

    def copies(self) -> tuple[Pairs, Pairs]:
        """Copies out and in that are due since the last call, for the plan that is made now."""
        copies = tuple(self._out), tuple(self._in)
        self._out, self._in = [], []
        return copies

    def check(self, running: Iterable[Request], waiting: Iterable[Request]) -> None:
        """Verify that blocks, slots and requests agree.

        Raises:
            AssertionError: they do not.
        """
        running, waiting = list(running), list(waiting)
        self.pool.check(request.blocks for request in running)
        for request in running:
            assert len(request.blocks) * self._size >= request.computed, "computed tokens without a block"
            assert not request.slots, "a running request holds host slots"
        for request in waiting:
            assert not request.blocks, "a waiting request holds blocks"
            assert len(request.slots) * self._size >= request.computed, "computed tokens that are nowhere"
        held = [slot for request in waiting for slot in request.slots]
        assert len(held) == len(set(held)) == self.slots.held, "held host slots differ from what requests hold"

    def _release_blocks(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks, request.published = [], 0
