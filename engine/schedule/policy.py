"""The order in which requests run: a key per request, the least first."""

from __future__ import annotations

from typing import Literal

from engine.schedule.request import Request

Policy = Literal["fcfs", "priority", "longest_first"]
Key = tuple[int, int, int]


def order_key(policy: Policy, request: Request) -> Key:
    """A request's place, the same for its whole life.

    ``fcfs`` runs requests in order of arrival, ``priority`` those with a lower number before. ``longest_first`` runs
    those first whose output may become longest, because the last of them decides when the work is done (longest
    processing time first, Graham 1969); a waiting request gains one token on later ones with every step, so that none
    waits for ever. Requests with equal bounds run in order of arrival.
    """
    if policy == "longest_first":
        return (request.arrival - request.max_output, request.index, request.child)
    return (request.priority if policy == "priority" else 0, request.index, request.child)
