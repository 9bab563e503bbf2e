"""How many tokens a step should hold, so that the steps of long outputs are not left half empty at the end."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from engine.schedule.output_lengths import OutputLengths, remaining
from engine.schedule.request import Request, Status

ROUND = 128  # paced steps are multiples of this, so that few step sizes occur
CHUNK = 32  # tokens of a paced prompt that one step computes at least: attention reads all keys before them again


@dataclass
class StepBudget:
    """What is left of a step: ``tokens`` for everybody, at most ``paced`` of them for prompts that can wait."""

    tokens: int
    paced: int
    horizon: int
    lengths: OutputLengths
    least: int = ROUND
    planned: bool = False

    def grant(self, request: Request, whole: bool) -> int:
        """Tokens that the request may compute now; ``whole`` prompts are not cut to what is left of the pace."""
        left = request.total - request.computed
        if left == 1 or self.lengths.rest(request) >= self.horizon:
            return self.tokens
        paced = self.paced if self.planned else max(self.paced, self.least)  # a step with work to do computes something
        if whole:
            return self.tokens if paced > 0 else 0
        return min(self.tokens, paced) if paced >= min(left, CHUNK) or not self.planned else 0

    def take_counted(self) -> None:
        """A slice of one token is planned, which is taken off the pace already."""
        self.tokens -= 1
        self.planned = True

    def take(self, tokens: int) -> None:
        """A slice of a prompt is planned."""
        self.tokens -= tokens
        self.paced -= tokens
        self.planned = True


class Pacing:
    """Spreads the prompts over the steps that the longest output needs anyway.

    A step reads all weights, whether for one token or for a hundred; from about ``balance`` tokens on its time grows
    with their number instead. So its time is a convex function of its tokens. A request that may still write ``r``
    tokens needs ``r`` more steps, whatever else happens; let the *horizon* be the greatest such ``r``. The horizon's
    steps have to be run, and the ``work`` - all tokens still to compute, by their bounds - has to be put into them: by
    Jensen's inequality it costs least when every step holds the same share, ``work / horizon`` tokens. Starting all
    prompts at once instead fills the first steps, and leaves the last ones to a few long outputs.

    Where outputs may end before their bounds, both are estimates (``OutputLengths``). A share below ``balance`` could
    then slow every step for a horizon that never comes, so a step gets at least ``balance`` tokens, where a token costs
    little more than in the largest step.

    A request that could outlast the horizon is *urgent*: it starts at once. With equal bounds every request is urgent,
    and nothing is paced.
    """

    def __init__(self, balance: int, most: int, lengths: OutputLengths, multiple: int = ROUND) -> None:
        """Take the step size to keep, ``balance`` tokens (0: pace nothing), and the largest step, ``most`` tokens.

        Paced steps are multiples of ``multiple`` tokens.
        """
        self.balance = balance
        self.most = most
        self.lengths = lengths
        self.multiple = multiple
        self.known = 0  # tokens still to compute: prompts, and outputs of certain length
        self.open = 0  # the same of the other outputs, by their bounds
        self._certain, self._uncertain = _Ends(), _Ends()

    @property
    def work(self) -> int:
        """Tokens that are still to compute."""
        return self.known + self.lengths.scaled(self.open)

    def add(self, request: Request, now: int) -> None:
        """A request arrived."""
        self._count(request, 0, bound(request))
        self._ends(request).add(request, now)

    def start(self, request: Request, now: int) -> None:
        """A request starts, later than it arrived perhaps."""
        if request.arrival != now:
            self._ends(request).push(request, now)

    def progress(self, request: Request, computed: int) -> None:
        """The request's computed tokens become ``computed``, more than they are or, after a preemption, fewer."""
        self._count(request, computed, request.computed)

    def finish(self, request: Request) -> None:
        """A request ended: what it had left will not be computed."""
        self._count(request, bound(request), request.computed)
        self._ends(request).finish()

    def horizon(self, now: int) -> int:
        """Steps that the unfinished requests need; 0 without any."""
        return max(self._certain.latest(now), self.lengths.scaled(self._uncertain.latest(now)))

    def budget(self, now: int, decoding: int) -> StepBudget:
        """What step ``now`` may hold, with ``decoding`` requests that take a token each."""
        if not self.balance:
            return StepBudget(self.most, self.most, 0, self.lengths)
        horizon = self.horizon(now)
        share = max(self.balance, -(-self.work // max(1, horizon)))
        paced = -(-share // self.multiple) * self.multiple
        return StepBudget(self.most, paced - decoding, horizon, self.lengths, self.multiple)

    def check(self, unfinished: Iterable[Request]) -> None:
        """Verify the count of the work; raises AssertionError."""
        left = sum(bound(request) - request.computed for request in unfinished)
        assert self.known + self.open == left, "work is miscounted"
        assert self.known >= 0 <= self.open, "work is miscounted"

    def _count(self, request: Request, stop: int, start: int) -> None:
        """Take the tokens from ``start`` to ``stop`` off the work; add them where ``stop`` is less."""
        if request.certain:
            self.known -= stop - start
            return
        prompt = len(request.prompt)
        output = max(stop, prompt) - max(start, prompt)
        self.open -= output
        self.known -= stop - start - output

    def _ends(self, request: Request) -> _Ends:
        return self._certain if request.certain else self._uncertain


class _Ends:
    """The greatest number of steps that any of a set of requests may need, by their bounds.

    A heap of the steps in which they would end if they ran from now on; O(log n) amortised. Finished requests are
    forgotten lazily. One that waited, or whose prompt took steps, ends later than its entry says, and one whose drafts
    were right ends earlier: entries are put right when they reach the top, so that the maximum is exact for the request
    on top, and a request that starts late gets a new entry.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Request]] = []  # minus the last step's number, what names the request
        self._unfinished = 0

    def add(self, request: Request, now: int) -> None:
        self._unfinished += 1
        self.push(request, now)

    def push(self, request: Request, now: int) -> None:
        heapq.heappush(self._heap, self._entry(request, now))

    def finish(self) -> None:
        self._unfinished -= 1
        if len(self._heap) > 4 * self._unfinished + ROUND:
            self._heap = [entry for entry in self._heap if entry[-1].status is not Status.FINISHED]
            heapq.heapify(self._heap)

    def latest(self, now: int) -> int:
        """Steps from ``now`` to the last end; 0 without any."""
        while self._heap:
            end, _, _, request = self._heap[0]
            if request.status is Status.FINISHED:
                heapq.heappop(self._heap)
            elif -end != now + remaining(request):
                heapq.heapreplace(self._heap, self._entry(request, now))
            else:
                return -end - now
        return 0

    def _entry(self, request: Request, now: int) -> tuple[int, int, int, Request]:
        return (-(now + remaining(request)), request.index, request.child, request)


def bound(request: Request) -> int:
    """Most tokens that the request will ever compute, once each; the last one drawn is not."""
    return len(request.prompt) + request.max_output - 1
