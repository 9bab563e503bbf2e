"""The scheduler in random traces against a naive map of prefixes and the rules in prose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.params import SamplingParams
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request, Status
from engine.schedule.scheduler import Scheduler
from tests.engine.schedule.device import Device
from tests.engine.schedule.steps import STOP, guess, limits, request, verify

LONGEST = 24  # tokens of prompt and output together


class SchedulerTrace(RuleBasedStateMachine):
    """Adds, steps and aborts in any order.

    ``content`` is the naive cache: which prefix of tokens (with its salt) each block holds, as the steps wrote it. From
    it follows what a prefix match may return, without a hash. ``computed`` names the prompts that
    some step has computed to their end, so that further completions may begin there.
    """

    @initialize(
        blocks=st.integers(6, 14),
        max_tokens=st.integers(1, 30),
        max_seqs=st.integers(1, 5),
        chunked=st.booleans(),
        caching=st.booleans(),
        policy=st.sampled_from(["fcfs", "priority", "longest_first", "prefix_grouped"]),
        balance=st.sampled_from([0, 0, 1]),
        admission=st.booleans(),
        slots=st.sampled_from([0, 0, 3, 50]),
        draft_room=st.sampled_from([0, 8, 40]),
    )
    def start(self, blocks: int, max_tokens: int, max_seqs: int, chunked: bool, caching: bool, **more: Any) -> None:
        self.limits = limits(
            max_tokens=max_tokens if chunked else max(max_tokens, LONGEST),
            max_seqs=max_seqs,
            blocks=blocks,
            chunked_prefill=chunked,
            prefix_caching=caching,
            policy=more["policy"],
            balance=more["balance"],
            admission_control=more["admission"],
            swap_slots=more["slots"],
            draft_room=more["draft_room"],
        )
        self.device = Device(self.limits.block_size)
        self.scheduler = Scheduler(self.limits)
        self.scheduler.requests.pacing.multiple = 4
        self.requests: list[Request] = []
        self.content: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        self.computed: set[int] = set()
        self.index = 0

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=18),
        outputs=st.integers(1, 6),
        children=st.sampled_from([1, 1, 2, 3, 7]),
        priority=st.integers(0, 2),
        salt=st.sampled_from([b"", b"", b"s"]),
        scored=st.sampled_from([None, None, None, 1]),
    )
    def add(
        self, prompt: list[int], outputs: int, children: int, priority: int, salt: bytes, scored: int | None
    ) -> None:
        for child in range(children):
            new = request(
                self.index,
                prompt,
                outputs,
                child=child,
                priority=priority,
                salt=salt,
                stop_ids=frozenset({STOP}),
                params=SamplingParams(n=children, prompt_logprobs=scored if child == 0 else None),
            )
            self.requests.append(new)
            self.scheduler.add(new)
        self.index += 1

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        victim = data.draw(st.sampled_from(self.alive()))
        self.scheduler.finish(victim, "abort")
        assert victim.status is Status.FINISHED
        assert victim.finish_reason == "abort"
        assert not victim.blocks
        assert victim.tail is None

    @rule(guesses=st.lists(st.integers(0, 6), min_size=2, max_size=4))
    def step(self, guesses: Sequence[int] = (3, 1, 6, 6)) -> None:
        running, waiting, known = list(self.scheduler.running), self.waiting(), set(self.content.values())
        held = {request: request.computed for request in waiting}  # in host memory
        before, lacks_room = self.scheduler.requests.preemptions, [self.lacks_room(spared) for spared in (True, False)]
        behind, decoding = self.behind_others(), self.decode_in_place()
        offered = self.offer(guesses)
        plan = self.scheduler.schedule(offered)
        self.check_drafts(plan, offered)
        self.back = [block for block, _ in plan.swap_in]
        self.check_budget(plan)
        self.check_order(plan, waiting, behind)
        starting = [part.request for part in plan.slices if part.request in waiting]
        if not self.limits.balance:
            assert (self.scheduler.requests.preemptions > before) in lacks_room, (
                "preemption exactly when blocks run out"
            )
        self.check_preemption(running, self.scheduler.requests.preemptions - before, plan)
        self.device.execute(plan)
        for part in sorted(plan.slices, key=lambda part: part.request in decoding):
            if part.request in waiting:
                self.check_start(part, known, held[part.request])
            if part.request not in plan.forks:
                known |= self.write(part, starting)
        self.computed |= {part.request.index for part in plan.slices if part.stop >= len(part.request.prompt)}
        ends = {part.request: len(part.request.output) for part in plan.slices if part.samples}
        tokens, accepted = verify(plan)
        drawn = {request: [*accepted.get(request, ()), token] for request, token in tokens.items()}
        self.drop_drafts(plan)
        drafted = {part: part.request.blocks for part in plan.slices if part.request in plan.drafts}
        finished = self.scheduler.update(plan, tokens, accepted)
        self.check_end(ends, drawn, finished)
        self.keep_accepted(drafted)

    def alive(self) -> list[Request]:
        return [request for request in self.requests if request.status is not Status.FINISHED]

    def waiting(self) -> list[Request]:
        return sorted((r for r in self.requests if r.status is Status.WAITING), key=self.order)

    def order(self, request: Request) -> tuple[int, ...]:
        if self.limits.policy == "prefix_grouped":
            return request.place
        places = {"fcfs": 0, "priority": request.priority, "longest_first": request.arrival - request.max_output}
        return (places[self.limits.policy], request.index, request.child)

    def check_budget(self, plan: StepPlan) -> None:
        assert plan.tokens <= self.limits.max_tokens
        assert len(self.scheduler.running) <= self.limits.max_seqs
        assert bool(plan.slices) == bool(self.alive()), "a step with work to do computes something"
        for part in plan.slices:
            one, drafts = part.request, len(plan.drafts.get(part.request, ()))
            assert one.computed == part.start <= part.stop - drafts <= one.total
            assert (part.start == part.stop) == (one in plan.forks)
            blocks = len(one.blocks) + (one in plan.forks and one.tail is not None)
            assert blocks * self.limits.block_size >= part.stop
            assert one in plan.forks or one.tail is None, "who writes has blocks of its own"

    def offer(self, guesses: Sequence[int]) -> dict[Request, list[int]]:
        """Drafts for those that decode: some right, some wrong, some more than may be taken."""
        decoding = [r for r in self.scheduler.running if r.total - r.computed == 1]
        return {r: guess(r, guesses[i % len(guesses)], guesses[(i + 1) % len(guesses)]) for i, r in enumerate(decoding)}

    def check_drafts(self, plan: StepPlan, offered: dict[Request, list[int]]) -> None:
        parts = {part.request: part for part in plan.slices}
        for one, drafts in plan.drafts.items():
            assert list(drafts) == offered[one][: len(drafts)] != []
            assert parts[one].stop == one.total + len(drafts)
            assert len(one.output) + len(drafts) < one.max_output, "a step draws one token more than it has drafts"
        if plan.drafts:
            assert plan.tokens <= self.limits.draft_room

    def keep_accepted(self, drafted: dict[Slice, list[int]]) -> None:
        """Blocks that accepted drafts have filled hold known tokens from now on."""
        size = self.limits.block_size
        for part, held in drafted.items():
            one = part.request
            for number in range(part.start // size, (one.total - 1) // size):
                prefix = (one.salt, tuple(one.tokens(0, (number + 1) * size)))
                if prefix not in self.content.values():
                    self.content[held[number]] = prefix

    def decode_in_place(self) -> set[Request]:
        """Those whose next token fits into their last block: what it fills is published when the step is booked."""
        return {
            one
            for one in self.scheduler.running
            if one.output and one.total - one.computed == 1 and one.total <= len(one.blocks) * self.limits.block_size
        }

    def behind_others(self) -> set[int]:
        """Prompts that a running request has not computed to their end yet."""
        return {one.index for one in self.scheduler.running if one.computed < len(one.prompt)}

    def check_order(self, plan: StepPlan, waiting: list[Request], behind: set[int]) -> None:
        """Waiting requests start in the order of the policy, and none is passed over but those whose prompt another one
        computes."""
        started = [part.request for part in plan.slices if part.request in waiting]
        behind = behind | {one.index for one in started}
        passed = [r for r in waiting if r not in started and r.params.n > 1 and not r.output and r.index in behind]
        assert started == [request for request in waiting if request not in passed][: len(started)]

    def check_start(self, part: Slice, known: set[tuple[bytes, tuple[int, ...]]], held: int) -> None:
        """A request that starts takes what blocks hold now, or will when the slices before its own are computed.

        ``known`` are all prefixes that were there before the step or that those slices write; requests that started in
        between may have taken blocks of them, so it found at least what is still there. ``held`` tokens were in host
        memory.
        """
        one = part.request
        least = max(held, self.matched(one, set(self.content.values())))
        most = max(held, self.matched(one, known))
        if one.params.n > 1 and one.reads_prefix_cache and one.index in self.computed:
            most = max(most, min(len(one.prompt), one.total - 1))
        assert least <= part.start
        assert part.start <= most or part.start == part.stop == len(one.prompt)
        if not self.limits.chunked_prefill:
            assert part.stop == part.request.total

    def matched(self, request: Request, known: set[tuple[bytes, tuple[int, ...]]]) -> int:
        """How many of the request's leading tokens are in blocks, the last token aside."""
        if not self.limits.prefix_caching or request.params.prompt_logprobs is not None:
            return 0
        found = 0
        for stop in range(self.limits.block_size, request.total, self.limits.block_size):
            if (request.salt, tuple(request.tokens(0, stop))) not in known:
                break
            found = stop
        return found

    def check_preemption(self, running: list[Request], count: int, plan: StepPlan) -> None:
        gone = [request for request in running if request.status is Status.WAITING]
        assert len(gone) == count
        if not gone:
            return
        kept = [request for request in running if request.status is Status.RUNNING]
        assert all(self.order(k) < self.order(g) for k in kept for g in gone), "the last in order go first"
        assert all(part.request in kept for part in plan.slices), "nobody starts in a step that preempts"
        assert all(not request.blocks and request.tail is None for request in gone)
        for one in gone:
            kept = len(one.slots) * self.limits.block_size
            assert kept >= one.computed > kept - self.limits.block_size or one.computed == kept == 0
        assert self.limits.swap_slots or not any(request.slots for request in gone)

    def lacks_room(self, spared: bool) -> bool:
        """Whether the running requests' next slices need more blocks than others do not use.

        ``spared``: a tail that nobody writes into need not be copied for the last one that has it.
        """
        budget, missing, copied = self.limits.max_tokens, 0, set()
        for one in sorted(self.scheduler.running, key=self.order):
            stop = min(one.total, one.computed + budget)
            budget -= stop - one.computed
            if stop > one.computed:
                missing += max(0, -(-stop // self.limits.block_size) - len(one.blocks))
                copied |= {one.tail} - {None}
        written = {block for one in self.scheduler.running for block in one.blocks}
        tails = {one.tail for one in self.scheduler.running} - {None}
        return missing - spared * len(copied - written) > self.limits.blocks - len(written | tails)

    def write(self, part: Slice, starting: list[Request]) -> set[tuple[bytes, tuple[int, ...]]]:
        """The step computes the slice: its full blocks now hold those tokens, others nothing that is known.

        Returns the prefixes of the full ones, which requests that start in the same step may share.
        """
        request, stop = part.request, part.stop
        size, written = self.limits.block_size, set()
        back = [block for block in self.back if block in request.blocks]  # came back from the host; others may share
        self.back = [block for block in self.back if block not in back]
        first = request.blocks.index(back[0]) if back else part.start // size
        for block in request.blocks[first : -(-min(stop, request.total) // size)]:
            self.content.pop(block, None)
        for number in range(first, -(-stop // size)):
            block = request.blocks[number]
            others = [r for r in self.scheduler.running if r is not request and block in r.blocks]
            full = (number + 1) * size <= min(stop, request.total)
            reads = all(r in starting and r.computed >= (number + 1) * size for r in others)
            assert not others or (full and reads), "a block is written by one only, and read from the next slice on"
            prefix = (request.salt, tuple(request.tokens(0, (number + 1) * size)))
            if full:
                written.add(prefix)
                if prefix not in self.content.values():
                    self.content[block] = prefix  # the first block with a prefix is the one that is found
        return written

    def check_end(self, ends: dict[Request, int], drawn: dict[Request, list[int]], finished: list[Request]) -> None:
        for one, produced in ends.items():
            new = one.output[produced:]
            stops, full = new[-1] == STOP, len(one.output) >= one.max_output
            assert new == drawn[one][: len(new)]
            assert STOP not in new[:-1]
            assert len(one.output) <= one.max_output
            assert len(new) == len(drawn[one]) or stops, "tokens are dropped only behind one that ends the request"
            assert one.computed == one.total - 1 or one in finished
            assert (one in finished) == (stops or full)
            assert one.finish_reason == ("stop" if stops else "length" if full else None)

    @invariant()
    def consistent(self) -> None:
        self.scheduler.check()
        assert self.scheduler.unfinished == len(self.alive())
        for one in self.requests:
            assert bool(one.blocks) <= (one.status is Status.RUNNING)
        self.drop_reused()
        for one in self.scheduler.running:
            for number in range(one.computed // self.limits.block_size):
                tokens = tuple(one.tokens(0, (number + 1) * self.limits.block_size))
                held = self.content.get(one.blocks[number], (one.salt, tokens))
                assert held == (one.salt, tokens), "a running request's block holds another's tokens"

    def drop_reused(self) -> None:
        """A block handed out anew for a partial slice holds nothing that may be found."""
        for one in self.scheduler.running:
            for block in one.blocks[one.computed // self.limits.block_size :]:
                self.content.pop(block, None)

    def drop_drafts(self, plan: StepPlan) -> None:
        """Nor do those that a plan's drafts got after everything else was planned."""
        for one in plan.drafts:
            for block in one.blocks[-(-one.total // self.limits.block_size) :]:
                self.content.pop(block, None)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(5000):
            if not self.scheduler.unfinished:
                break
            self.step()
            self.consistent()
        assert not self.alive(), "every request finishes"
        assert self.scheduler.kv.pool.held == self.scheduler.kv.slots.held == 0, "no block leaks"


TestSchedulerTrace = SchedulerTrace.TestCase
TestSchedulerTrace.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
