"""Which drafts a step takes: what is left of its budget and of the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.schedule.kv_manager import KVManager
from engine.schedule.plan import Slice
from engine.schedule.request import Request


def take_drafts(
    slices: list[Slice], drafts: Mapping[Request, Sequence[int]], tokens: int, kv: KVManager, running: int
) -> dict[Request, tuple[int, ...]]:
    """Lengthen planned slices by drafts, in place; returns those taken.

    All tokens that are known to be needed are planned before. So that drafts make nobody lack a block in the next step
    either, one free block for each running request is left to it.

    Args:
        slices: of the step.
        drafts: what is offered.
        tokens: that the step may still hold.
        kv: gives blocks.
        running: number of running requests.
    """
    size = kv.limits.block_size
    room = min(tokens, kv.limits.draft_room - sum(part.stop - part.start for part in slices))
    taken: dict[Request, tuple[int, ...]] = {}
    for number, part in enumerate(slices):
        request, stop = part.request, part.stop
        if request not in drafts or not part.samples or request.pending:
            continue
        # The step draws one token more than there are drafts.
        count = min(len(drafts[request]), room, request.max_output - len(request.output) - 1)
        blocks = len(request.blocks) + max(0, kv.pool.free - running)
        count = min(count, blocks * size - stop)
        if count > 0 and kv.grow(request, stop + count):
            slices[number] = part._replace(stop=stop + count)
            taken[request] = tuple(drafts[request][:count])
            room -= count
    return taken
