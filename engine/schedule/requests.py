"""Who runs and who waits, and what else has to know when that changes."""

from __future__ import annotations

import heapq
from bisect import insort
from operator import attrgetter

from engine.schedule.admission import Admission
from engine.schedule.kv_manager import KVManager
from engine.schedule.limits import Limits
from engine.schedule.output_lengths import OutputLengths
from engine.schedule.pacing import Pacing
from engine.schedule.policy import Order
from engine.schedule.request import Request, Status
from engine.schedule.shared_prompts import Beginning


class Requests:
    """The unfinished requests; every change of a request's state is made here.

    A request waits, runs once it has blocks, waits again where it is preempted, and ends from either state. Blocks and
    slots (``KVManager``), the count of the work (``Pacing``) and the forecast of the cache (``Admission``) hear of
    each of these steps.
    """

    def __init__(self, limits: Limits, kv: KVManager) -> None:
        self.lengths = OutputLengths()
        self.pacing = Pacing(limits.balance, limits.max_tokens, self.lengths)
        self.admission = Admission(limits, self.lengths) if limits.admission_control else None
        self.running: list[Request] = []  # in their order
        self.waiting: list[tuple[tuple[int, ...], Request]] = []  # a heap
        self.prompting: set[Request] = set()  # those running that have more than a token to plan
        self.preemptions = 0
        self.recomputed_tokens = 0
        self._kv = kv
        self._order = Order(limits.policy, kv.cache)

    def add(self, request: Request, step: int) -> None:
        """The request comes before step ``step``, and waits."""
        request.arrival = step
        request.place = self._order.place(request)
        self.pacing.add(request, step)
        self._kv.prompts.add(request)
        self._queue(request)

    def start(self, request: Request, found: Beginning, computed: int, stop: int, step: int) -> bool:
        """Make a waiting request a running one, with blocks up to token ``stop``, if they can be had and kept.

        Args:
            request: taken off the heap by the caller, who puts it back where this gives False.
            found: the beginning of it that is in the cache.
            computed: tokens that need not be computed.
            stop: tokens that it is to have blocks for.
            step: the number of the step that it starts in.
        """
        shared = sum(self._kv.pool.holders(block) > 0 for block in found.blocks)
        if self.admission and self.running and not self.admission.fits(request, shared, self._kv.pool.held, step):
            return False
        if not self._kv.begin(request, found, stop):
            return False
        self._kv.prompts.start(request)
        self.recomputed_tokens += max(0, request.lost - computed)
        self.progress(request, computed)
        request.status = Status.RUNNING
        if request.preemptions == 0:
            request.cached_tokens = computed
        self.pacing.start(request, step)
        if self.admission:
            self.admission.start(request, shared, step)
        insort(self.running, request, key=attrgetter("place"))
        return True

    def progress(self, request: Request, computed: int) -> None:
        """The request's computed tokens become ``computed``."""
        self.pacing.progress(request, computed)
        request.computed = computed

    def preempt(self, request: Request) -> None:
        """A running request gives its blocks up, to the host's slots where there are any, and waits."""
        self._stop(request)
        request.lost = request.computed
        if not self._kv.preempt(request):
            self.progress(request, 0)
        request.status = Status.WAITING
        request.preemptions += 1
        self.preemptions += 1
        self._queue(request)

    def retire(self, request: Request) -> None:
        """End a request: its blocks go back, and a token that nobody will see is dropped."""
        if request.status is Status.RUNNING:
            self._stop(request)
        elif request.status is Status.WAITING:
            self.waiting = [entry for entry in self.waiting if entry[1] is not request]
            heapq.heapify(self.waiting)
        if request.pending:
            request.output.pop()
        request.status = Status.FINISHED
        self._kv.release(request)
        self._kv.prompts.finish(request)
        self.pacing.finish(request)
        self._order.forget(request)
        if request.finish_reason != "abort":
            self.lengths.learn(request)

    def check(self) -> None:
        """Verify that requests, blocks and counts agree; raises AssertionError."""
        waiting = [request for _, request in self.waiting]
        self._kv.check(self.running, waiting)
        self.pacing.check([*self.running, *waiting])
        assert self.running == sorted(self.running, key=attrgetter("place")), "running requests are out of order"
        behind = {request for request in self.running if request.total - request.computed > 1}
        assert self.prompting <= behind, "requests whose prompts are computed count as under way"

    def _stop(self, request: Request) -> None:
        self.running.remove(request)
        self._kv.prompts.stop(request)
        self.prompting.discard(request)
        if self.admission:
            self.admission.stop(request)

    def _queue(self, request: Request) -> None:
        heapq.heappush(self.waiting, (request.place, request))
