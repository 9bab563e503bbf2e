"""Whether a request that starts now can stay: the KV cache's future peak, estimated."""

from __future__ import annotations

from bisect import bisect_left, insort
from math import isqrt
from typing import NamedTuple

from engine.schedule.limits import Limits
from engine.schedule.output_lengths import OutputLengths
from engine.schedule.request import Request


class _Stay(NamedTuple):
    """A running request's future: it holds ``offset + t`` tokens of its own in each step ``t`` up to ``end``."""

    end: int
    name: tuple[int, int]  # index and child: no two are equal, so that nothing behind it is compared
    offset: int
    shared: int
    request: Request

    @property
    def most(self) -> int:
        """Tokens that it holds in its last step."""
        return self.offset + self.end


class Admission:
    """Keeps a waiting request from starting where it, or another, would have to be preempted before its end.

    Every running request grows by one token a step until it ends and gives its blocks back. What all hold together is
    therefore greatest in a step in which one of them ends: with the requests in the order of their ends, those peaks
    are sums over the tail of the list (the past-future scheduler, Gong et al. 2025). A candidate is admitted
    if no peak that it adds to exceeds the cache.

    Ends are certain or estimated, as lengths are (``OutputLengths``); estimates that have passed are renewed. Half a
    block is added for a request's last, partly filled one, and for the spread of that sum as many blocks as the square
    root of the requests' number.

    Blocks shared with running requests count once: for the one that brought them, or, since that one has ended, as a
    base that stays.

    Most candidates are settled in O(1): an upper bound of the peak leaves them room, or the same candidate was refused
    and nobody has ended since. The others cost a pass over the running requests.
    """

    def __init__(self, limits: Limits, lengths: OutputLengths) -> None:
        self._lengths = lengths
        self._size = limits.block_size
        self._capacity = limits.blocks * limits.block_size
        self._stays: list[_Stay] = []
        self._of: dict[Request, _Stay] = {}
        self._own = 0  # sum of offsets
        self._bound = 0  # never below the peak of the stays
        self._refused: Request | None = None

    def fits(self, request: Request, shared: int, held: int, now: int) -> bool:
        """Whether the request could stay from step ``now`` on.

        Args:
            request: the candidate.
            shared: its leading blocks that running requests hold already.
            held: blocks that are held now.
            now: the step's number.
        """
        self._renew(now)
        if request is self._refused:
            return False
        stay = self._stay(request, shared, now)
        count = len(self._stays) + 1
        base = max(0, held * self._size - self._own - now * len(self._stays))
        room = self._capacity - base - self._size * isqrt(count)
        if self._bound + stay.most <= room:
            return True
        self._bound = self._peak(None)
        fits = self._bound + stay.most <= room or self._peak(stay) <= room
        self._refused = None if fits else request
        return fits

    def start(self, request: Request, shared: int, now: int) -> None:
        """The request starts."""
        stay = self._of[request] = self._stay(request, shared, now)
        insort(self._stays, stay)
        self._own += stay.offset
        self._bound += stay.most

    def stop(self, request: Request) -> None:
        """The request runs no more: it has ended, or it is preempted."""
        stay = self._of.pop(request)
        del self._stays[bisect_left(self._stays, stay)]
        self._own -= stay.offset
        self._refused = None

    def _peak(self, extra: _Stay | None) -> int:
        """Most tokens that the stays, and ``extra``, will hold together."""
        stays = self._stays
        if extra is not None:
            stays = stays.copy()
            insort(stays, extra)
        peak = offsets = 0
        for count, (end, _, offset, _, _) in enumerate(reversed(stays), start=1):
            offsets += offset
            peak = max(peak, offsets + count * end)
        return peak

    def _renew(self, now: int) -> None:
        """Estimate anew the ends that have passed."""
        while self._stays and self._stays[0].end < now:
            late = self._stays[0]
            self.stop(late.request)
            self.start(late.request, late.shared, now)

    def _stay(self, request: Request, shared: int, now: int) -> _Stay:
        rest = self._lengths.rest(request)
        own = request.total + rest - shared * self._size + self._size // 2
        return _Stay(now + rest, (request.index, request.child), own - (now + rest), shared, request)
