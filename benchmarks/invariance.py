"""The same requests under different limits, orders and accidents: what must not change a bit of any answer."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

import torch

from engine import SamplingParams
from engine.args import FLAGS, POLICIES, EngineArgs
from engine.build import build
from engine.generation import GenerationCore
from engine.model.decoder import Decoder
from engine.outputs import RequestOutput
from engine.stats import EngineStats
from engine.text.inputs import Input

Answer = tuple[tuple[int, ...], tuple[float, ...]]  # tokens, and the log-probability of each
SAMPLE = 8  # requests that also run alone
SUBSET = 48  # requests of the cases that would take long with all of them
FORCED_EVERY, FORCED_MOST = 5, 3  # steps between forced preemptions, and how many there are for each request
COUNTERS = ("steps", "peak_running", "preemptions", "swapped_out", "swapped_in", "cached_tokens")
OWN_CASE = ("enable_prefix_caching", "enforce_eager", "batch_invariant", "skip_tokenizer_init")  # or not a case at all
SAMPLING: Sequence[Mapping[str, Any]] = (
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 0.7},
    {"temperature": 1.0, "min_p": 0.05},
)


@dataclass(frozen=True)
class Work:
    """One request."""

    prompt: list[int]
    params: SamplingParams
    priority: int


@dataclass(frozen=True)
class Case:
    """One way to run the requests, and what must have happened on the way."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    count: int | None = None  # of the requests, the first so many
    how: Literal["together", "shuffled", "alone"] = "together"
    cache_tokens: int | None = None  # size of the KV cache
    forced: bool = False  # preempt running requests now and then
    n: int = 1  # completions of those that draw; the first one's noise is that of a request of its own
    logprobs: bool = True  # without them steps are launched ahead and sampled in the graph; tokens are compared
    must_see: tuple[str, ...] = ()  # counters that must be above zero


@dataclass(frozen=True)
class Outcome:
    """What a case gave: answers by the requests' numbers."""

    answers: Mapping[int, Answer]
    counters: Mapping[str, int]
    seconds: float


def requests(count: int = 256, longest: int = 2000, shortest_output: int = 32) -> list[Work]:
    """Prompts of 4 to ``longest`` tokens (lognormal), a quarter behind one of three shared beginnings."""
    draw = random.Random("invariance")
    shared = [_tokens(draw, min(n, longest // 2)) for n in (200, 512, 900)]
    work = []
    for i in range(count):
        length = int(min(longest, max(4, draw.lognormvariate(5.0, 1.2))))
        prompt = (draw.choice(shared) if i % 4 == 3 else []) + _tokens(draw, length)
        output = draw.randint(shortest_output, 2 * shortest_output)
        params = SamplingParams(
            max_tokens=output, ignore_eos=True, detokenize=False, logprobs=0, seed=i, **SAMPLING[i % len(SAMPLING)]
        )
        work.append(Work(prompt[:longest], params, draw.randrange(5)))
    return work


def cases(max_model_len: int) -> list[Case]:
    """Everything that must equal the reference, which runs all requests together with the defaults."""
    small: dict[str, Any] = {"cache_tokens": 2 * max_model_len, "forced": True}
    policies = [Case(f"policy {p}", {"scheduling_policy": p}) for p in POLICIES if p != _default("scheduling_policy")]
    names = [name for name, kind in FLAGS.items() if kind is bool and name not in OWN_CASE]
    switches = [Case(f"{name} {'off' if _default(name) else 'on'}", {name: not _default(name)}) for name in names]
    return [
        Case(f"alone, sample of {SAMPLE}", {"enable_prefix_caching": False}, how="alone"),
        Case("max_num_seqs 3", {"max_num_seqs": 3}, SUBSET),
        Case("max_num_seqs 16", {"max_num_seqs": 16}),
        Case("max_num_seqs 256", {"max_num_seqs": 256}),
        Case("shuffled", how="shuffled"),
        Case("steps of 64 tokens", {"max_num_batched_tokens": 64}, SUBSET),
        Case("steps of 512 tokens", {"max_num_batched_tokens": 512}),
        Case("steps of 2048 tokens", {"max_num_batched_tokens": 2048}),
        Case("steps of 8192 tokens", {"max_num_batched_tokens": 8192}),
        Case("prefix caching on", {"enable_prefix_caching": True}, must_see=("cached_tokens",)),
        Case("prefix caching off", {"enable_prefix_caching": False}),
        Case("preemption, recomputed", **small, must_see=("preemptions",)),
        Case("preemption, recomputed, no prefix caching", {"enable_prefix_caching": False}, **small),
        Case("preemption, swapped", {"preemption_mode": "swap"}, **small, must_see=("preemptions", "swapped_in")),
        Case("preemption as blocks run out", {"enable_admission_control": False}, cache_tokens=small["cache_tokens"]),
        Case("3 completions of each", n=3),
        Case("3 completions of each, preemption, swapped", {"preemption_mode": "swap"}, **small, n=3),
        Case("graphs off", {"enforce_eager": True}, SUBSET),
        *policies,
        *switches,
        Case("no logprobs", logprobs=False),
        Case("no logprobs, preemption", **small, logprobs=False, must_see=("preemptions",)),
        Case("no logprobs, 3 completions of each", n=3, logprobs=False),
        Case("no logprobs, steps of 512 tokens", {"max_num_batched_tokens": 512}, logprobs=False),
        Case("no logprobs, graphs off", {"enforce_eager": True}, SUBSET, logprobs=False),
    ]


VARIANCE = (
    Case("max_num_seqs 3", {"max_num_seqs": 3}, SUBSET),
    Case("max_num_seqs 16", {"max_num_seqs": 16}),
    Case("steps of 512 tokens", {"max_num_batched_tokens": 512}),
)


class SharedWeights:
    """Engines with different limits over weights that are loaded once."""

    def __init__(self, model: str, **arguments: Any) -> None:
        """Load the model; the arguments are those of every engine."""
        self.args = EngineArgs(model=model, load_format="dummy", skip_tokenizer_init=True, **arguments)
        self.decoder: Decoder | None = None
        core = self._core({})
        self.decoder = cast(Any, core.runner).model
        del core
        _release()

    def missing(self, case: Case) -> str | None:
        """The first argument of a case that this engine does not know."""
        known = {f.name for f in fields(EngineArgs)}
        return next((name for name in case.arguments if name not in known), None)

    def run(self, work: Sequence[Work], case: Case) -> Outcome:
        """Run a case on an engine of its own, which is gone afterwards."""
        start = time.perf_counter()
        arguments = dict(case.arguments)
        if case.cache_tokens is not None:
            arguments["kv_cache_memory_bytes"] = self._cache_bytes(case.cache_tokens)
        core = self._core(arguments)
        answers = {number: answer for group in _groups(work, case) for number, answer in _answers(core, group, case)}
        counters = _counters(core.stats())
        core.scheduler.check()
        del core
        _release()
        return Outcome(answers, counters, time.perf_counter() - start)

    def _core(self, changes: Mapping[str, Any]) -> GenerationCore:
        core = build(replace(self.args, **changes), self.decoder).core
        assert isinstance(core, GenerationCore)
        return core

    def _cache_bytes(self, tokens: int) -> int:
        assert self.decoder is not None
        spec = self.decoder.spec
        return tokens * 2 * spec.kv_heads * spec.head_dim * self.decoder.dtype.itemsize * spec.layers


def differences(got: Outcome, expected: Outcome, case: Case) -> dict[str, int]:
    """How many requests differ from the reference, in tokens and in log-probabilities."""
    assert got.answers, "a case without answers"
    pairs = [(answer, expected.answers[number]) for number, answer in got.answers.items()]
    tokens = sum(ours[0] != theirs[0] for ours, theirs in pairs)
    logprobs = sum(ours[1] != theirs[1] for ours, theirs in pairs) if case.logprobs else 0
    return {"requests": len(pairs), "tokens_differ": tokens, "logprobs_differ": logprobs}


def unmet(outcome: Outcome, case: Case) -> str | None:
    """What should have happened in a case and did not."""
    missing = [name for name in case.must_see if not outcome.counters[name]]
    if any(not math.isfinite(value) for _, values in outcome.answers.values() for value in values):
        return "a log-probability is not finite"
    return f"no {missing[0]} happened" if missing else None


def _release() -> None:
    """Give back the memory of engines that are gone; the next one sizes its cache by what is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _groups(work: Sequence[Work], case: Case) -> Iterator[list[tuple[int, Work]]]:
    """The numbered requests that run beside each other."""
    numbered = list(enumerate(work))[: case.count]
    if case.how == "alone":
        yield from ([one] for one in numbered[:: max(1, len(numbered) // SAMPLE)][:SAMPLE])
        return
    if case.how == "shuffled":
        random.Random(1).shuffle(numbered)
    yield numbered


def _answers(core: GenerationCore, group: Sequence[tuple[int, Work]], case: Case) -> Iterator[tuple[int, Answer]]:
    draw, forced, step = random.Random(case.name), 0, 0
    for number, one in group:
        n = 1 if one.params.greedy else case.n
        params = replace(one.params, n=n, logprobs=one.params.logprobs if case.logprobs else None)
        priority = one.priority if core.scheduler.limits.policy == "priority" else 0
        core.add(str(number), Input(one.prompt, priority=priority), params)
    while core.unfinished:
        for output in core.step():
            yield int(output.request_id), _answer(output)
        step += 1
        running = core.scheduler.running
        if case.forced and running and step % FORCED_EVERY == 0 and forced < FORCED_MOST * len(group):
            core.scheduler.requests.preempt(draw.choice(running))  # as when blocks run out: what runs may be in flight
            forced += 1


def _answer(output: RequestOutput) -> Answer:
    completion = output.outputs[0]
    tokens = tuple(completion.token_ids)
    steps = completion.logprobs or ()
    return tokens, tuple(step[token].logprob for step, token in zip(steps, tokens, strict=bool(steps)))


def _counters(stats: EngineStats) -> dict[str, int]:
    return {name: getattr(stats, name, 0) for name in COUNTERS}


def _default(name: str) -> Any:
    return next(f.default for f in fields(EngineArgs) if f.name == name)


def _tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(10, 32000) for _ in range(count)]
