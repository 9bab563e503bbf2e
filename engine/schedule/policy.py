"""The order in which requests run: a place per request, the least first."""

from __future__ import annotations

from typing import Literal

from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.prefix_groups import PrefixGroups
from engine.schedule.request import Request

Policy = Literal["longest_first", "prefix_grouped", "fcfs", "priority"]


class Order:
    """Gives every request its place, the same for its whole life. Each policy ends in order of arrival.

    ``fcfs`` is that order alone. ``priority`` runs lower numbers before. ``longest_first`` runs those first whose
    output may become longest, because the last of them decides when the work is done (longest processing time first,
    Graham 1969); a waiting request gains one token on later ones with every step, so that none waits for ever.
    ``prefix_grouped`` runs requests with common leading blocks one after the other (``PrefixGroups``).
    """

    def __init__(self, policy: Policy, cache: PrefixCache) -> None:
        self._policy = policy
        self._groups = PrefixGroups(cache)

    def place(self, request: Request) -> tuple[int, ...]:
        """The place of a request that arrives."""
        if self._policy == "prefix_grouped":
            return self._groups.place(request)
        first = {"longest_first": request.arrival - request.max_output, "priority": request.priority}
        return (first.get(self._policy, 0), request.index, request.child)

    def forget(self, request: Request) -> None:
        """A request has ended."""
        if self._policy == "prefix_grouped":
            self._groups.forget(request)
