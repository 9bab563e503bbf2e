"""Iteration-level scheduling (Orca, Yu et al. 2022), one token budget, a paged cache (vLLM, Kwon et al. 2023)."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence

from engine.schedule.drafts import take_drafts
from engine.schedule.kv_manager import KVManager
from engine.schedule.limits import Limits
from engine.schedule.pacing import StepBudget
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import PENDING, Request, Status
from engine.schedule.requests import Requests

NONE: Mapping[Request, Sequence[int]] = {}


class Scheduler:
    """Plans steps: running requests first, then waiting ones, in the order of the policy.

    When blocks run out, the running request that comes last in that order gives its blocks back and waits again. What
    it had computed is computed anew, from the prefix cache as far as that reaches, or waits in host memory. The request
    that comes first is never preempted, and any request fits into the whole cache alone (``LLM`` checks that), so every
    request finishes.

    Steps may be launched ahead: ``advance`` books a launched plan as computed, with ``PENDING`` for the tokens that it
    draws, so that the next one can be planned before they are known. ``update`` fills them in. A request whose token
    turns out to end it may have been planned once too often; what that step computes for it is dropped.

    The completions of one prompt share its blocks, and it is computed once (``SharedPrompts``).

    A request may be offered *drafts*, guesses of its next tokens: they lengthen its slice as far as budget and free
    blocks reach, and nobody is preempted for them. ``update`` books those that were right, and the token after them;
    what was computed behind that is overwritten later, and was never published.

    A full block is published when the slice that fills it is planned: steps run in order, and within a step every layer
    writes all keys before any query reads them, so a request that starts later in the same plan may share it already.

    Ownership: the scheduler and its ``KVManager`` alone change requests.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.kv = KVManager(limits)
        self.requests = Requests(limits, self.kv)
        self._step = 0

    @property
    def running(self) -> Sequence[Request]:
        """Requests that hold blocks, in their order."""
        return self.requests.running

    @property
    def waiting(self) -> int:
        """Requests that hold no blocks yet."""
        return len(self.requests.waiting)

    @property
    def unfinished(self) -> int:
        """Requests that run or wait."""
        return len(self.requests.running) + len(self.requests.waiting)

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.requests.add(request, self._step)

    def schedule(self, drafts: Mapping[Request, Sequence[int]] = NONE) -> StepPlan:
        """Plan the next step; its plan is empty only when nothing is unfinished but held requests.

        Args:
            drafts: guesses of requests' next tokens; the plan says which of them it takes.
        """
        budget = self.requests.pacing.budget(self._step, len(self.running) - len(self.requests.prompting))
        slices, preempted = self._continue_running(budget)
        forks: dict[Request, Request] = {}
        if not preempted:
            slices += self._admit_waiting(budget, forks)
        taken = take_drafts(slices, drafts, budget.tokens, self.kv, len(self.running)) if drafts else {}
        self._step += 1
        # A plan without slices is not launched: the copies wait for the next one, as no kernel runs in between.
        if not slices:
            return StepPlan(())
        swap_out, swap_in, copies = self.kv.due()
        return StepPlan(tuple(slices), swap_out, swap_in, taken, copies, forks)

    def advance(self, plan: StepPlan) -> None:
        """Book a launched plan: its tokens count as computed, those that it draws are pending."""
        drafts = plan.drafts
        for request, _, stop, samples, _ in plan.slices:
            self.requests.progress(request, stop - len(drafts[request]) if drafts and request in drafts else stop)
            if samples:
                request.output.append(PENDING)

    def update(
        self, plan: StepPlan, sampled: Mapping[Request, int], accepted: Mapping[Request, Sequence[int]] = NONE
    ) -> list[Request]:
        """Book a computed step: progress, new tokens, newly full blocks; return the requests that it finished.

        Args:
            plan: the plan of the step.
            sampled: the token drawn for each slice that samples.
            accepted: the drafts that turned out right, which come before that token; none without an entry.
        """
        finished, drafts = [], plan.drafts
        for request, _, stop, samples, epoch in plan.slices:
            if request.status is Status.FINISHED:
                continue  # ended by an earlier step's token, or by the caller, while this step ran
            if drafts and request in drafts:
                new = [*accepted.get(request, ()), sampled[request]]
                if self._book_drafted(request, stop - len(drafts[request]), epoch, new):
                    finished.append(request)
                continue
            if epoch == request.preemptions:
                if stop > request.computed:
                    self.requests.progress(request, stop)
                if stop // self.limits.block_size > request.published:
                    self.kv.cache.publish(request, stop)
            if samples:
                produced = stop - len(request.prompt) + 1
                request.output[produced - 1 : produced] = [sampled[request]]
                if _reached_end(request, produced):
                    finished.append(request)
        for request in finished:
            self.requests.retire(request)
        return finished

    def finish(self, request: Request, reason: str, stop_reason: int | str | None = None) -> bool:
        """End a request from outside: a stop string was found, its grammar cannot go on, or the caller aborts it.

        A stop string counts for more than the bound that the same token reached, or a stop id that was drawn behind it;
        an error for more than either. Gives whether the request was unfinished until now.
        """
        unfinished = request.status is not Status.FINISHED
        if unfinished or reason == "error" or (reason == "stop" and request.finish_reason in ("length", "stop")):
            request.finish_reason, request.stop_reason = reason, stop_reason
        if unfinished:
            self.requests.retire(request)
        return unfinished

    def check(self) -> None:
        """Verify that blocks and requests agree; raises AssertionError."""
        self.requests.check()

    def _continue_running(self, budget: StepBudget) -> tuple[list[Slice], bool]:
        """Slices of the running requests, and whether any was preempted to make room for another."""
        slices, preempted, size = [], False, self.limits.block_size
        queue = deque(self.running)
        while queue and budget.tokens > 0:
            request = queue.popleft()
            produced = len(request.output)
            if produced >= request.max_output:
                continue  # its last token is being drawn
            total = len(request.prompt) + produced
            if produced and total - request.computed == 1 and total <= len(request.blocks) * size:
                # It decodes, and has room.
                slices.append(Slice(request, total - 1, total, True, request.preemptions))
                budget.take_counted()
                continue
            stop = min(total, request.computed + budget.grant(request, whole=False))
            if stop == request.computed:
                continue  # paced
            while not self.kv.grow(request, stop):
                victim = queue.pop() if queue else request
                self.requests.preempt(victim)
                preempted = True
                if victim is request:
                    break
            else:
                if request in self.requests.prompting:
                    budget.take(stop - request.computed)
                else:
                    budget.take_counted()
                slices.append(self._plan(request, stop))
        return slices, preempted

    def _admit_waiting(self, budget: StepBudget, forks: dict[Request, Request]) -> list[Slice]:
        """Slices of waiting requests that start now; ``forks``, those without tokens, is filled in."""
        slices: list[Slice] = []
        deferred, prompts = [], self.kv.prompts
        waiting = self.requests.waiting
        while waiting and len(self.running) < self.limits.max_seqs:
            entry = heapq.heappop(waiting)
            request = entry[1]
            leader = prompts.leader(request, self._step)
            if request.pending or request.held or (leader is None and prompts.is_coming(request, self._step)):
                deferred.append(entry)
                continue
            if leader is not None:
                if not self._fork(request, len(forks)):
                    deferred.append(entry)
                    break
                forks[request] = leader
                slices.append(self._plan(request, request.total))
                continue
            tokens = budget.grant(request, whole=not self.limits.chunked_prefill) if budget.tokens > 0 else 0
            if tokens == 0 or not self._start(request, tokens):
                deferred.append(entry)
                break
            stop = min(request.total, request.computed + tokens)
            slices.append(self._plan(request, stop))
            budget.take(stop - request.computed)
        for entry in deferred:
            heapq.heappush(waiting, entry)
        return slices

    def _book_drafted(self, request: Request, total: int, epoch: int, new: Sequence[int]) -> bool:
        """Book the tokens that follow the first ``total`` ones, up to one that ends the request; whether one does."""
        for produced, token in enumerate(new, start=total - len(request.prompt) + 1):
            request.output[produced - 1 : produced] = [token]
            if _reached_end(request, produced):
                break
        if epoch == request.preemptions:
            self.requests.progress(request, request.total - 1)
            self.kv.cache.publish(request, request.computed)
        return request.finish_reason is not None

    def _plan(self, request: Request, stop: int) -> Slice:
        """The request's slice up to ``stop``, whose blocks it has."""
        self.kv.cache.publish(request, stop)
        self.kv.prompts.reach(request, stop, self._step)
        if request.total - stop > 1:
            self.requests.prompting.add(request)
        else:
            self.requests.prompting.discard(request)
        return Slice(request, request.computed, stop, stop == request.total, request.preemptions)

    def _start(self, request: Request, tokens: int) -> bool:
        """Start a waiting request with a slice of at most ``tokens`` tokens, behind those that need not be computed.

        False leaves it as it was.
        """
        found = self.kv.find(request, self._step)
        computed = max(request.computed, found.tokens)
        if not self.limits.chunked_prefill and request.total - computed > tokens:
            return False
        return self.requests.start(request, found, computed, min(request.total, computed + tokens), self._step)

    def _fork(self, request: Request, forks: int) -> bool:
        """Start a waiting request behind its prompt, which another one ends in this step, as ``forks`` others do.

        Each will need a block in the next step. False leaves it as it was.
        """
        if self.kv.pool.free <= forks:
            return False
        found = self.kv.prompts.fork(request)
        return self.requests.start(request, found, found.tokens, found.tokens, self._step)


def _reached_end(request: Request, produced: int) -> bool:
    """Whether output token number ``produced`` ends the request; sets its finish reason."""
    token = request.output[produced - 1]
    if token in request.stop_ids and produced >= max(request.params.min_tokens, 1):
        request.finish_reason = "stop"
        request.stop_reason = None if token in request.eos_ids else token
    elif produced >= request.max_output:
        request.finish_reason = "length"
    return request.finish_reason is not None
