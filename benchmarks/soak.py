"""Keeps an engine under mixed load with cancellations and forced preemptions, and looks for what leaks or breaks."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import psutil
import torch

from benchmarks.soak_traffic import Account, Traffic
from engine import SamplingParams
from engine.generation import GenerationCore
from engine.text.inputs import Input, InputError

MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """How much, and how roughly."""

    requests: int = 20_000
    rounds: int = 10  # after each the engine is empty; memory is compared with that after the ``warm`` first ones
    warm: int = 5
    abort_share: float = 0.05  # of the requests
    preempt_every: int = 40  # steps
    check_every: int = 50  # steps
    forget_every: int = 3000  # steps after which the prefix cache is forgotten
    again: int = 24  # finished requests that run again alone at the end, and must give the same tokens


@dataclass(frozen=True)
class Memory:
    """Bytes in use with an empty engine, and the number of Python objects."""

    objects: int
    host: int
    allocated: int
    reserved: int
    device: int  # all that is in use on the device: graphs and the driver's own too

    @classmethod
    def now(cls) -> Memory:
        """As it is after what is garbage has gone."""
        gc.collect()
        objects = len(gc.get_objects())
        host = psutil.Process().memory_info().rss
        if not torch.cuda.is_available():
            return cls(objects, host, 0, 0, 0)
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return cls(objects, host, torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), total - free)

    def growth(self, since: Memory) -> dict[str, float]:
        """Objects, and MiB, more than then."""
        more = {name: getattr(self, name) - getattr(since, name) for name in self.__annotations__}
        return {name: value if name == "objects" else round(value / MIB, 1) for name, value in more.items()}


@dataclass
class Soak:
    """One run; ``run`` raises AssertionError at the first thing that is wrong."""

    core: GenerationCore
    traffic: Traffic
    plan: Plan
    report: Callable[[str], None]
    account: Account = field(init=False)
    memory: list[Memory] = field(init=False, default_factory=list)
    steps: int = field(init=False, default=0)
    preempted: int = field(init=False, default=0)
    done: list[tuple[Input, SamplingParams, tuple[int, ...]]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.account = Account(self.traffic, self.core.model.eos_ids)
        self._draw = random.Random("soak")
        self._aborts = 0

    def run(self) -> dict[str, float]:
        """Everything; returns the growth of memory from the warm rounds to the last."""
        before, number = self.core.stats(), 0
        for turn in range(self.plan.rounds):
            end = self.plan.requests * (turn + 1) // self.plan.rounds
            while number < end or self.core.unfinished:
                number = self._fill(number, end)
                self._step()
            self._check_empty(number)
            self.memory.append(Memory.now())
            self.report(f"round {turn + 1}: {self.account.counts}, {self.steps} steps, {self.preempted} preempted")
        delivered = self.core.stats().output_tokens - before.output_tokens
        assert delivered == self.account.tokens, f"{delivered} tokens drawn, {self.account.tokens} in outputs"
        growth = self.memory[-1].growth(self.memory[self.plan.warm - 1])
        self._run_again()
        return growth

    def _fill(self, number: int, end: int) -> int:
        """Add requests while there is room; the number of the next one."""
        while number < end and self.core.unfinished < self.core.window:
            prompt, params = self.traffic.request(number)
            if self.core.scheduler.limits.policy != "priority":
                prompt = replace(prompt, priority=0)
            try:
                self.core.add(str(number), prompt, params)
            except InputError:
                assert len(prompt.token_ids) >= self.traffic.length, f"request {number} was refused"
                self.account.counts["refused"] += 1
            else:
                self.account.live[str(number)] = (prompt, params)
            number += 1
        return number

    def _step(self) -> None:
        scheduler, draw = self.core.scheduler, self._draw
        for output in self.core.step():
            prompt, params = self.account.settle(output, "finished")
            if params.n == 1 and len(self.done) < self.plan.again and draw.random() < 0.05:
                self.done.append((prompt, params, tuple(output.outputs[0].token_ids)))
        self.steps += 1
        wanted = self.plan.abort_share * (self.account.settled + 1)
        if self.account.live and self._aborts < wanted and draw.random() < 0.5:
            output_or_none = self.core.abort(draw.choice(list(self.account.live)))
            assert output_or_none is not None, "a live request cannot be aborted"
            self.account.settle(output_or_none, "aborted")
            self._aborts += 1
        if self.steps % self.plan.preempt_every == 0 and scheduler.running:
            for victim in draw.sample(scheduler.running, min(3, len(scheduler.running))):
                scheduler.requests.preempt(victim)  # as when blocks run out: what runs may be in flight
                self.preempted += 1
        if self.steps % self.plan.check_every == 0:
            scheduler.check()
        if self.steps % self.plan.forget_every == 0:
            self.core.reset_prefix_cache()

    def _check_empty(self, number: int) -> None:
        """Nothing is held, and every request so far is accounted for."""
        self.core.step()  # a step may be in flight whose requests have all ended
        scheduler = self.core.scheduler
        scheduler.check()
        held = self.core.stats().kv_blocks_used
        assert held == 0, f"{held} blocks are held by nobody"
        assert not scheduler.running, "requests run"
        assert scheduler.waiting == 0, "requests wait"
        assert not self.account.live, f"lost: requests {sorted(self.account.live)[:5]}"
        assert self.account.settled == number, f"{self.account.settled} accounts for {number} requests"

    def _run_again(self) -> None:
        """Alone, requests give what they gave in the crowd."""
        for index, (prompt, params, expected) in enumerate(self.done):
            self.core.add(f"again-{index}", prompt, params)
            found: tuple[int, ...] = ()
            while self.core.unfinished:
                for output in self.core.step():
                    found = tuple(output.outputs[0].token_ids)
            assert found == expected, f"a request of {len(prompt.token_ids)} tokens gives others when it runs alone"
