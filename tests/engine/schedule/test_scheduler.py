"""The scheduler: random traces against a naive map of prefixes and the rules in prose, and its rules one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.params import SamplingParams
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request, Status
from engine.schedule.scheduler import Limits, Scheduler

LONGEST = 24  # tokens of prompt and output together, in the traces
STOP = 0


def limits(**changes: Any) -> Limits:
    plain: dict[str, Any] = {"max_tokens": 16, "max_seqs": 8, "blocks": 64, "block_size": 4}
    return Limits(**(plain | changes))


def request(index: int, prompt: list[int], max_output: int = 4, **fields: Any) -> Request:
    return Request(
        index=index, prompt=prompt, params=fields.pop("params", SamplingParams()), max_output=max_output, **fields
    )


def next_token(request: Request) -> int:
    """Stands in for the model: a function of the tokens before, which sometimes is the stop token."""
    return (sum(request.tokens(0, request.total)) * 7 + request.total) % 11


def step(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    scheduler.update(plan, {part.request: next_token(part.request) for part in plan.slices if part.samples})
    scheduler.check()
    return plan


def run(scheduler: Scheduler, most: int = 2000) -> list[StepPlan]:
    plans = []
    while scheduler.unfinished:
        plans.append(step(scheduler))
        assert len(plans) < most, "the scheduler makes no progress"
    return plans


def spans(plan: StepPlan) -> list[tuple[int, int, int, int]]:
    return [(part.request.index, part.request.child, part.start, part.stop) for part in plan.slices]


class SchedulerTrace(RuleBasedStateMachine):
    """Adds, steps and aborts in any order.

    ``content`` is the naive cache: which prefix of tokens (with its salt) each block holds, as the steps wrote it. From
    it follows what a prefix match may return, without a hash.
    """

    @initialize(
        blocks=st.integers(6, 14),
        max_tokens=st.integers(1, 30),
        max_seqs=st.integers(1, 5),
        chunked=st.booleans(),
        caching=st.booleans(),
        policy=st.sampled_from(["fcfs", "priority"]),
    )
    def start(self, blocks: int, max_tokens: int, max_seqs: int, chunked: bool, caching: bool, policy: Any) -> None:
        self.limits = limits(
            max_tokens=max_tokens if chunked else max(max_tokens, LONGEST),
            max_seqs=max_seqs,
            blocks=blocks,
            chunked_prefill=chunked,
            prefix_caching=caching,
            policy=policy,
        )
        self.scheduler = Scheduler(self.limits)
        self.requests: list[Request] = []
        self.content: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        self.index = 0

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=18),
        outputs=st.integers(1, 6),
        children=st.integers(1, 3),
        priority=st.integers(0, 2),
        salt=st.sampled_from([b"", b"", b"s"]),
        scored=st.sampled_from([None, None, None, 1]),
    )
    def add(
        self, prompt: list[int], outputs: int, children: int, priority: int, salt: bytes, scored: int | None
    ) -> None:
        leader = None
        for child in range(children):
            new = request(
                self.index,
                prompt,
                outputs,
                child=child,
                leader=leader,
                priority=priority,
                salt=salt,
                stop_ids=frozenset({STOP}),
                params=SamplingParams(prompt_logprobs=scored),
            )
            leader = leader or new
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

    @rule()
    def step(self) -> None:
        running, waiting = list(self.scheduler.running), self.waiting()
        most = {request: self.matched(request) for request in waiting}
        before = self.scheduler.preemptions
        plan = self.scheduler.schedule()
        self.check_budget(plan)
        self.drop_reused()
        self.check_start(plan, most)
        self.check_preemption(running, self.scheduler.preemptions - before, plan)
        for part in plan.slices:
            self.write(part.request, part.start, part.stop)
        ends = {part.request: len(part.request.output) for part in plan.slices if part.samples}
        drawn = {request: next_token(request) for request in ends}
        finished = self.scheduler.update(plan, drawn)
        self.check_end(ends, drawn, finished)

    def alive(self) -> list[Request]:
        return [request for request in self.requests if request.status is not Status.FINISHED]

    def waiting(self) -> list[Request]:
        return sorted((r for r in self.requests if r.status is Status.WAITING), key=self.order)

    def order(self, request: Request) -> tuple[int, int, int]:
        return (request.priority if self.limits.policy == "priority" else 0, request.index, request.child)

    def check_budget(self, plan: StepPlan) -> None:
        assert plan.tokens <= self.limits.max_tokens
        assert len(self.scheduler.running) <= self.limits.max_seqs
        assert bool(plan.slices) == bool(self.alive()), "a step with work to do computes something"
        for part in plan.slices:
            assert part.request.computed == part.start < part.stop <= part.request.total
            assert len(part.request.blocks) * self.limits.block_size >= part.stop

    def check_start(self, plan: StepPlan, most: dict[Request, int]) -> None:
        """Waiting requests start in the order of the policy; only siblings of an unready leader are passed over.

        ``most`` is what each could find before the step. Requests that started earlier in the step may have taken
        blocks of that, so it found at least what is there after the step.
        """
        waiting = list(most)
        started = [part for part in plan.slices if part.request in most]
        assert [part.request for part in started] == sorted((part.request for part in started), key=self.order)
        if started:
            last = self.order(started[-1].request)
            passed = [r for r in waiting if self.order(r) < last and r.status is Status.WAITING]
            assert all(self.awaits_leader(r) for r in passed)
        for part in started:
            assert not self.awaits_leader(part.request)
            assert self.matched(part.request) <= part.start <= most[part.request]
            if part is started[0] and len(plan.slices) == 1:
                assert part.start == most[part.request]
            if not self.limits.chunked_prefill:
                assert part.stop == part.request.total

    def awaits_leader(self, request: Request) -> bool:
        leader = request.leader
        if leader is None or not self.limits.prefix_caching or leader.status is Status.FINISHED:
            return False
        return leader.computed < len(leader.prompt)

    def matched(self, request: Request) -> int:
        """How many of the request's leading tokens are in blocks, the last token aside."""
        if not self.limits.prefix_caching or request.params.prompt_logprobs is not None:
            return 0
        found, known = 0, set(self.content.values())
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
        assert all(not request.blocks and request.computed == 0 for request in gone)
        least = min(gone, key=self.order)
        missing = -(-min(least.total, LONGEST) // self.limits.block_size)
        assert self.scheduler.pool.free < missing + self.needed_next(kept), "there was no room for all"

    def needed_next(self, kept: list[Request]) -> int:
        return sum(-(-r.total // self.limits.block_size) - len(r.blocks) + 1 for r in kept)

    def write(self, request: Request, start: int, stop: int) -> None:
        """The step computes tokens ``start`` to ``stop``: full blocks now hold them, others nothing that is known."""
        size = self.limits.block_size
        for number in range(start // size, -(-stop // size)):
            block = request.blocks[number]
            shared = [r for r in self.scheduler.running if r is not request and block in r.blocks]
            assert not shared, "a block that is written is nobody else's"
            self.content.pop(block, None)
            prefix = (request.salt, tuple(request.tokens(0, (number + 1) * size)))
            if (number + 1) * size <= stop and prefix not in self.content.values():
                self.content[block] = prefix  # the first block with a prefix is the one that is found

    def check_end(self, ends: dict[Request, int], drawn: dict[Request, int], finished: list[Request]) -> None:
        for request, produced in ends.items():
            assert len(request.output) == produced + 1
            stops, full = drawn[request] == STOP, produced + 1 >= request.max_output
            assert (request in finished) == (stops or full)
            assert request.finish_reason == ("stop" if stops else "length" if full else None)

    @invariant()
    def consistent(self) -> None:
        self.scheduler.check()
        assert self.scheduler.unfinished == len(self.alive())
        for request in self.requests:
            assert bool(request.blocks) <= (request.status is Status.RUNNING)
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

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(5000):
            if not self.scheduler.unfinished:
                break
            self.step()
            self.consistent()
        assert not self.alive(), "every request finishes"
        assert self.scheduler.pool.held == 0, "no block leaks"


TestSchedulerTrace = SchedulerTrace.TestCase
TestSchedulerTrace.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


def test_one_budget_serves_running_requests_first_then_prompts_in_chunks() -> None:
    scheduler = Scheduler(limits(max_tokens=6))
    scheduler.add(request(0, [1] * 4))
    assert spans(step(scheduler)) == [(0, 0, 0, 4)]
    scheduler.add(request(1, [2] * 8))
    scheduler.add(request(2, [3] * 3))
    assert spans(step(scheduler)) == [(0, 0, 4, 5), (1, 0, 0, 5)]
    assert spans(step(scheduler)) == [(0, 0, 5, 6), (1, 0, 5, 8), (2, 0, 0, 2)]


def test_without_chunks_a_prompt_waits_until_it_fits_whole() -> None:
    scheduler = Scheduler(limits(max_tokens=6, chunked_prefill=False))
    scheduler.add(request(0, [1] * 4, 2))
    scheduler.add(request(1, [2] * 6, 1))
    scheduler.add(request(2, [3], 1))
    plans = [spans(plan) for plan in run(scheduler)]
    assert plans == [[(0, 0, 0, 4)], [(0, 0, 4, 5)], [(1, 0, 0, 6)], [(2, 0, 0, 1)]]


def test_priority_runs_lower_numbers_first_and_fcfs_ignores_them() -> None:
    for policy, expected in (("fcfs", [0, 1, 2]), ("priority", [2, 1, 0])):
        scheduler = Scheduler(limits(max_seqs=1, policy=policy))
        for index in range(3):
            scheduler.add(request(index, [index + 1], 1, priority=-index))
        assert [spans(plan)[0][0] for plan in run(scheduler)] == expected


def test_late_urgent_request_preempts_the_least_urgent_when_blocks_run_out() -> None:
    scheduler = Scheduler(limits(blocks=3, policy="priority", prefix_caching=False))
    urgent = request(1, [2] * 4, 6, priority=-1)
    slow = request(0, [1] * 4, 6, priority=5)
    scheduler.add(slow)
    step(scheduler)
    scheduler.add(urgent)
    run(scheduler)
    assert (slow.preemptions, urgent.preemptions) == (1, 0)
    assert len(slow.output) == len(urgent.output) == 6


def test_last_token_never_comes_from_the_cache() -> None:
    scheduler = Scheduler(limits())
    for index in range(2):
        scheduler.add(request(index, [5] * 8, 1))
        run(scheduler)
    again = request(2, [5] * 8, 1)
    scheduler.add(again)
    assert spans(scheduler.schedule()) == [(2, 0, 4, 8)]
    assert again.cached_tokens == 4


def test_longer_prompt_takes_the_full_blocks_it_shares() -> None:
    scheduler = Scheduler(limits())
    scheduler.add(request(0, list(range(1, 12)), 1))
    run(scheduler)
    scheduler.add(request(1, [*range(1, 9), 99, 98, 97], 1))
    assert spans(scheduler.schedule()) == [(1, 0, 8, 11)]


def test_output_tokens_are_found_too() -> None:
    scheduler = Scheduler(limits())
    first = request(0, [1] * 6, 6)
    scheduler.add(first)
    run(scheduler)
    scheduler.add(request(1, first.tokens(0, 12), 1))
    assert spans(scheduler.schedule()) == [(1, 0, 8, 12)]


@pytest.mark.parametrize("changes", [{"salt": b"x"}, {"params": SamplingParams(prompt_logprobs=0)}])
def test_salt_separates_and_prompt_logprobs_compute_everything(changes: dict[str, Any]) -> None:
    scheduler = Scheduler(limits())
    scheduler.add(request(0, [5] * 12, 1))
    run(scheduler)
    other = request(1, [5] * 12, 1, **changes)
    scheduler.add(other)
    assert spans(step(scheduler)) == [(1, 0, 0, 12)]
    assert other.cached_tokens == 0


def test_same_tokens_after_another_beginning_are_not_shared() -> None:
    scheduler = Scheduler(limits())
    scheduler.add(request(0, [1, 1, 1, 1, 2, 2, 2, 2, 9], 1))
    run(scheduler)
    scheduler.add(request(1, [2, 2, 2, 2, 2, 2, 2, 2, 9], 1))
    assert spans(scheduler.schedule()) == [(1, 0, 0, 9)]


def test_prefix_caching_off_shares_nothing() -> None:
    scheduler = Scheduler(limits(prefix_caching=False))
    for index in range(2):
        scheduler.add(request(index, [5] * 12, 1))
        assert spans(step(scheduler)) == [(index, 0, 0, 12)]


def test_siblings_wait_for_their_leader_and_share_its_blocks() -> None:
    scheduler = Scheduler(limits(max_tokens=8))
    leader = request(0, [1] * 12)
    children = [request(0, [1] * 12, child=child, leader=leader) for child in (1, 2)]
    for one in (leader, *children, request(1, [7] * 4)):
        scheduler.add(one)
    assert spans(step(scheduler)) == [(0, 0, 0, 8)]
    assert spans(step(scheduler)) == [(0, 0, 8, 12), (1, 0, 0, 4)]
    assert spans(step(scheduler)) == [(0, 0, 12, 13), (1, 0, 4, 5), (0, 1, 8, 12), (0, 2, 8, 10)]
    assert leader.blocks[:2] == children[0].blocks[:2] == children[1].blocks[:2]


def test_siblings_of_an_aborted_leader_start() -> None:
    scheduler = Scheduler(limits())
    leader = request(0, [1] * 12)
    child = request(0, [1] * 12, child=1, leader=leader)
    scheduler.add(leader)
    scheduler.add(child)
    scheduler.finish(leader, "abort")
    assert spans(scheduler.schedule()) == [(0, 1, 0, 12)]


def test_finish_while_a_step_is_computed_drops_its_result() -> None:
    scheduler = Scheduler(limits())
    one = request(0, [1] * 4)
    scheduler.add(one)
    plan = scheduler.schedule()
    scheduler.finish(one, "stop", "x")
    assert scheduler.update(plan, {one: 3}) == []
    assert (one.output, one.finish_reason, one.stop_reason) == ([], "stop", "x")
    assert scheduler.pool.held == 0
    scheduler.finish(one, "abort")
    assert one.finish_reason == "stop", "the first reason stays"


def test_stop_ids_end_a_request_after_min_tokens_and_name_the_id() -> None:
    params = SamplingParams(min_tokens=2, stop_token_ids=[5])
    one = request(0, [1], 9, stop_ids=frozenset({5, 6}), params=params)
    other = request(1, [1], 9, stop_ids=frozenset({5, 6}), params=params)
    scheduler = Scheduler(limits())
    scheduler.add(one)
    scheduler.add(other)
    for token in (5, 5):
        plan = scheduler.schedule()
        scheduler.update(plan, {one: token, other: 6})
    assert (one.finish_reason, one.stop_reason, one.output) == ("stop", 5, [5, 5])
    assert (other.finish_reason, other.stop_reason) == ("stop", None), "the model's own end has no reason to name"
