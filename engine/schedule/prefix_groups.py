"""Puts requests with common leading blocks next to each other."""

from __future__ import annotations

from dataclasses import dataclass

from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.request import Request

DEPTH = 64  # blocks that are told apart; beginnings that differ later count as equal


@dataclass
class _Node:
    """A beginning of whole blocks that unfinished requests have: the number of the first, and how many have it."""

    first: int
    members: int = 0


class PrefixGroups:
    """The tree of the unfinished requests' leading blocks, walked depth first.

    Every beginning is numbered after the request that brought it. A request's place is the list of the numbers along
    its own blocks: in the order of such lists, requests that share more blocks are nearer to each other, and groups as
    well as the groups within them stand in the order of their first arrival. So a beginning is computed once and is
    used up before the next one needs the room. From the first number that is the request's own on, all are, and the
    list is cut there.
    """

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._nodes: dict[bytes, _Node] = {}

    def place(self, request: Request) -> tuple[int, ...]:
        """The place of a request that arrives."""
        numbers: list[int] = []
        own = request.index
        for key in self._keys(request):
            node = self._nodes.setdefault(key, _Node(own))
            node.members += 1
            if not numbers or numbers[-1] != own:
                numbers.append(node.first)
        if not numbers or numbers[-1] != own:
            numbers.append(own)
        return (*numbers, request.child)

    def forget(self, request: Request) -> None:
        """A request that was placed has ended."""
        for key in self._keys(request):
            node = self._nodes[key]
            node.members -= 1
            if node.members == 0:
                del self._nodes[key]

    def _keys(self, request: Request) -> list[bytes]:
        return self._cache.prompt_hashes(request, DEPTH)
