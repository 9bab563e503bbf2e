"""Iteration-level scheduling (Orca, Yu et al. 2022), one token budget, a paged cache (vLLM, Kwon et al. 2023)."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from engine.schedule.block_pool import BlockPool
from engine.schedule.pacing import Pacing, StepBudget, bound
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.policy import Key, Policy, order_key
from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.request import PENDING, Request, Status


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one step may hold: ``max_tokens`` computed tokens and ``max_seqs`` sequences.

    ``balance``: tokens of a step that uses the device well, for ``Pacing``; 0 paces nothing.
    """

    max_tokens: int
    max_seqs: int
    blocks: int
    block_size: int
    chunked_prefill: bool = True
    prefix_caching: bool = True
    policy: Policy = "fcfs"
    balance: int = 0


class Scheduler:
    """Plans steps: running requests first, then waiting ones, in the order of the policy.

    When blocks run out, the running request that comes last in that order gives its blocks back and waits again; it
    will be recomputed, from the prefix cache as far as that reaches. The request that comes first is never preempted,
    and any request fits into the whole cache alone (``LLM`` checks that), so every request finishes.

    Steps may be launched ahead: ``advance`` books a launched plan as computed, with ``PENDING`` for the tokens that it
    draws, so that the next one can be planned before they are known. ``update`` fills them in. A request whose token
    turns out to end it may have been planned once too often; what that step computes for it is dropped.

    A full block is published when the slice that fills it is planned: steps run in order, and within a step every layer
    writes all keys before any query reads them, so a request that starts later in the same plan may share it already.

    Ownership: the scheduler alone changes requests and the block pool. A released block may still be written by a
    launched step; steps run in order, so its next owner writes later.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pool = BlockPool(limits.blocks)
        self.cache = PrefixCache(self.pool, limits.block_size, limits.prefix_caching)
        self.pacing = Pacing(limits.balance, limits.max_tokens)
        self.running: list[Request] = []  # in the order of the policy
        self._waiting: list[tuple[Key, Request]] = []
        self._step = 0
        self.preemptions = 0

    @property
    def waiting(self) -> int:
        """Requests that hold no blocks yet."""
        return len(self._waiting)

    @property
    def unfinished(self) -> int:
        """Requests that run or wait."""
        return len(self.running) + len(self._waiting)

    def add(self, request: Request) -> None:
        """Queue a request."""
        request.arrival = self._step
        self.pacing.add(request, self._step)
        self._queue(request)

    def schedule(self) -> StepPlan:
        """Plan the next step; its plan is empty only when nothing is unfinished."""
        budget = self.pacing.budget(self._step, len(self.running))
        slices, preempted = self._continue_running(budget)
        if not preempted:
            slices += self._admit_waiting(budget)
        self._step += 1
        return StepPlan(tuple(slices))

    def advance(self, plan: StepPlan) -> None:
        """Book a launched plan: its tokens count as computed, those that it draws are pending."""
        for part in plan.slices:
            self._progress(part.request, part.stop)
            if part.samples:
                part.request.output.append(PENDING)

    def update(self, plan: StepPlan, sampled: Mapping[Request, int]) -> list[Request]:
        """Book a computed step: progress, new tokens, newly full blocks; return the requests that it finished.

        Args:
            plan: the plan of the step.
            sampled: the token drawn for each slice that samples.
        """
        finished = []
        for part in plan.slices:
            request = part.request
            if request.status is Status.FINISHED:
                continue  # ended by an earlier step's token, or by the caller, while this step ran
            if part.epoch == request.preemptions:
                self._progress(request, max(request.computed, part.stop))
                self.cache.publish(request, part.stop)
            if part.samples:
                produced = part.stop - len(request.prompt) + 1
                request.output[produced - 1 :] = [sampled[request], *request.output[produced:]]
                if self._reached_end(request, produced):
                    finished.append(request)
        for request in finished:
            self._retire(request)
        return finished

    def finish(self, request: Request, reason: str, stop_reason: int | str | None = None) -> None:
        """End a request from outside: a stop string was found, or the caller aborts it."""
        if request.status is Status.FINISHED:
            return
        request.finish_reason, request.stop_reason = reason, stop_reason
        self._retire(request)

    def check(self) -> None:
        """Verify that blocks and requests agree; raises AssertionError."""
        self.pool.check(request.blocks for request in self.running)
        for request in self.running:
            assert len(request.blocks) * self.limits.block_size >= request.computed, "computed tokens without a block"
        assert all(not request.blocks for _, request in self._waiting), "a waiting request holds blocks"
        assert self.running == sorted(self.running, key=self._key), "running requests are out of order"
        unfinished = [*self.running, *(request for _, request in self._waiting)]
        assert self.pacing.work == sum(bound(one) - one.computed for one in unfinished), "work is miscounted"

    def _continue_running(self, budget: StepBudget) -> tuple[list[Slice], bool]:
        """Slices of the running requests, and whether any was preempted to make room for another."""
        slices, preempted = [], False
        queue = deque(self.running)
        while queue and budget.tokens > 0:
            request = queue.popleft()
            if len(request.output) >= request.max_output:
                continue  # its last token is being drawn
            stop = min(request.total, request.computed + budget.grant(request, whole=False))
            if stop == request.computed:
                continue  # paced
            while not self._grow(request, stop):
                victim = queue.pop() if queue else request
                self._preempt(victim)
                preempted = True
                if victim is request:
                    break
            else:
                slices.append(self._plan(request, stop))
                budget.take(stop - request.computed, counted=1)
        return slices, preempted

    def _admit_waiting(self, budget: StepBudget) -> list[Slice]:
        """Slices of waiting requests that start now."""
        slices: list[Slice] = []
        deferred = []
        while self._waiting and budget.tokens > 0 and len(self.running) < self.limits.max_seqs:
            entry = heapq.heappop(self._waiting)
            request = entry[1]
            if request.pending:
                deferred.append(entry)
                continue
            tokens = budget.grant(request, whole=not self.limits.chunked_prefill)
            if tokens == 0 or not self._start(request, tokens):
                deferred.append(entry)
                break
            stop = min(request.total, request.computed + tokens)
            slices.append(self._plan(request, stop))
            budget.take(stop - request.computed)
        for entry in deferred:
            heapq.heappush(self._waiting, entry)
        return slices

    def _plan(self, request: Request, stop: int) -> Slice:
        """The request's slice up to ``stop``, whose blocks it has."""
        self.cache.publish(request, stop)
        return Slice(request, request.computed, stop, stop == request.total, request.preemptions)

    def _start(self, request: Request, tokens: int) -> bool:
        """Give a waiting request its cached blocks and those of its first slice, of at most ``tokens`` tokens.

        False leaves everything as it was.
        """
        shared = self.cache.match(request)
        computed = len(shared) * self.limits.block_size
        if not self.limits.chunked_prefill and request.total - computed > tokens:
            return False
        for block in shared:
            self.pool.share(block)
        request.blocks = shared
        if not self._grow(request, min(request.total, computed + tokens)):
            self.pool.release(shared)
            request.blocks = []
            return False
        request.published = len(shared)
        self._progress(request, computed)
        request.status = Status.RUNNING
        if request.preemptions == 0:
            request.cached_tokens = computed
        self.pacing.start(request, self._step)
        insort(self.running, request, key=self._key)
        return True

    def _grow(self, request: Request, tokens: int) -> bool:
        """Extend the request's blocks to hold ``tokens`` tokens, if there are enough free ones."""
        missing = -(-tokens // self.limits.block_size) - len(request.blocks)
        if missing <= 0:
            return True
        blocks = self.pool.allocate(missing)
        if blocks is None:
            return False
        request.blocks = request.blocks + blocks
        return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.pool.release(request.blocks)
        self._progress(request, 0)
        request.blocks, request.published, request.status = [], 0, Status.WAITING
        request.preemptions += 1
        self.preemptions += 1
        self._queue(request)

    def _retire(self, request: Request) -> None:
        """End a request: its blocks go back, and a token that nobody will see is dropped."""
        if request.status is Status.RUNNING:
            self.running.remove(request)
            self.pool.release(request.blocks)
            request.blocks = []
        elif request.status is Status.WAITING:
            self._waiting = [entry for entry in self._waiting if entry[1] is not request]
            heapq.heapify(self._waiting)
        if request.pending:
            request.output.pop()
        request.status = Status.FINISHED
        self.pacing.finish(request)

    def _reached_end(self, request: Request, produced: int) -> bool:
        """Whether output token number ``produced`` ends the request; sets its finish reason."""
        token = request.output[produced - 1]
        if token in request.stop_ids and produced >= max(request.params.min_tokens, 1):
            request.finish_reason = "stop"
            explicit = request.params.stop_token_ids or ()
            request.stop_reason = token if token in explicit else None
        elif produced >= request.max_output:
            request.finish_reason = "length"
        return request.finish_reason is not None

    def _progress(self, request: Request, computed: int) -> None:
        self.pacing.work -= computed - request.computed
        request.computed = computed

    def _queue(self, request: Request) -> None:
        heapq.heappush(self._waiting, (self._key(request), request))

    def _key(self, request: Request) -> Key:
        return order_key(self.limits.policy, request)
