"""Which blocks a request has: shared, allocated, copied, given back, or moved to host memory."""

from __future__ import annotations

from collections.abc import Iterable

from engine.schedule.block_pool import BlockPool
from engine.schedule.limits import Limits
from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.request import Request
from engine.schedule.shared_prompts import Beginning, SharedPrompts
from engine.schedule.swap_slots import SwapSlots

Pairs = tuple[tuple[int, int], ...]  # (device block, host slot) or (device block, device block)


class KVManager:
    """Owns block pool, prefix cache, shared prompts and host slots; the only one to change a request's ``blocks``,
    ``tail`` and ``slots``.

    A block that is released may still be written by a launched step, and one that is copied may still have to be
    written: steps run in order, and a step's copies run before its kernels, outwards first. A block that another is a
    copy of is held until the plan is made, so that nothing else is copied there before.
    """

    def __init__(self, limits: Limits) -> None:
        self.pool = BlockPool(limits.blocks)
        self.cache = PrefixCache(self.pool, limits.block_size, limits.prefix_caching)
        self.prompts = SharedPrompts(self.pool, limits.block_size)
        self.slots = SwapSlots(limits.swap_slots)
        self.limits = limits
        self._size = limits.block_size
        self._out: list[tuple[int, int]] = []
        self._in: list[tuple[int, int]] = []
        self._copies: list[tuple[int, int]] = []
        self.swapped_out = 0
        self.swapped_in = 0

    def find(self, request: Request, step: int) -> Beginning:
        """What a request that starts in this step need not compute, beside what the host has of it."""
        cached = self.cache.match(request)
        found = Beginning(cached, None, len(cached) * self._size)
        prompt = self.prompts.find(request, step)
        return found if prompt is None or prompt.tokens <= max(found.tokens, request.computed) else prompt

    def begin(self, request: Request, found: Beginning, stop: int) -> bool:
        """Give a waiting request its blocks up to token ``stop``.

        The first are shared, as they were ``found``; what is on the host of those after them comes back. False leaves
        the request as it was.
        """
        shared = [*found.blocks, *(() if found.tail is None else (found.tail,))]
        for block in shared:
            self.pool.share(block)
        request.blocks, request.tail = list(found.blocks), found.tail
        if stop > found.tokens and not self.grow(request, stop):
            self._release_blocks(request)
            return False
        request.published = len(found.blocks)
        back = [(request.blocks[n], request.slots[n]) for n in range(len(shared), len(request.slots))]
        self._in += back
        self.swapped_in += len(back)
        self.slots.release(request.slots)
        request.slots = []
        return True

    def grow(self, request: Request, tokens: int) -> bool:
        """Extend the request's blocks to hold ``tokens`` tokens, if there are enough free ones.

        Its tail becomes a block of its own: a copy, unless nobody else has it any more.
        """
        missing = -(-tokens // self._size) - len(request.blocks)
        if missing <= 0:
            return True
        while True:
            own = [] if request.tail is None or self.pool.holders(request.tail) > 1 else [request.tail]
            blocks = self.pool.allocate(missing - len(own))
            if blocks is not None:
                break
            if not self.prompts.give_up(request):
                return False
        if own:
            self.pool.claim(own[0])
        elif request.tail is not None:
            self._copies.append((request.tail, blocks[0]))  # holds the tail in the request's place
        request.tail = None
        request.blocks = request.blocks + own + blocks
        return True

    def preempt(self, request: Request) -> bool:
        """Take the request's blocks; whether what they hold is kept on the host."""
        used = -(-request.computed // self._size)
        slots = self.slots.allocate(used) if self.slots.size and used else None
        if slots is not None:
            self._out += zip(_all(request), slots, strict=False)
            self.swapped_out += used
            request.slots = slots
        self._release_blocks(request)
        return slots is not None

    def release(self, request: Request) -> None:
        """Take everything that a finished request holds."""
        self._release_blocks(request)
        self.slots.release(request.slots)
        request.slots = []

    def due(self) -> tuple[Pairs, Pairs, Pairs]:
        """Copies out, in and within the device that are due since the last call, for the plan that is made now."""
        due = tuple(self._out), tuple(self._in), tuple(self._copies)
        self.pool.release([source for source, _ in self._copies])
        self._out, self._in, self._copies = [], [], []
        return due

    def check(self, running: Iterable[Request], waiting: Iterable[Request]) -> None:
        """Verify that blocks, slots and requests agree.

        Raises:
            AssertionError: they do not.
        """
        running, waiting = list(running), list(waiting)
        self.pool.check([*map(_all, running), *self.prompts.held()])
        self.prompts.check([*running, *waiting])
        for request in running:
            assert len(_all(request)) * self._size >= request.computed, "computed tokens without a block"
            assert not request.slots, "a running request holds host slots"
        for request in waiting:
            assert not _all(request), "a waiting request holds blocks"
            assert len(request.slots) * self._size >= request.computed, "computed tokens that are nowhere"
        held = [slot for request in waiting for slot in request.slots]
        assert len(held) == len(set(held)) == self.slots.held, "held host slots differ from what requests hold"

    def _release_blocks(self, request: Request) -> None:
        self.pool.release(_all(request))
        request.blocks, request.tail, request.published = [], None, 0


def _all(request: Request) -> list[int]:
    """The request's blocks, its tail included."""
    return request.blocks if request.tail is None else [*request.blocks, request.tail]
