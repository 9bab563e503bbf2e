"""An engine whose model computes nothing: scheduler, cache, text and streams are the real ones, the tokens are made up.

A token is a function of the request's seed, prompt and position, so that the same request repeats anywhere.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np

from engine import LLM, AsyncLLM, RequestOutput, RequestOutputKind, SamplingParams
from engine.execute.model_runner import Done
from engine.execute.runner import StepResult
from engine.generation import GenerationCore
from engine.logprobs import RawLogprobs
from engine.model.files import resolve_model
from engine.schedule.limits import Limits
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request
from engine.seeds import derive_seed
from engine.structured.matcher import Words
from engine.text.tokenizer import Tokenizer, load_tokenizer
from tests.engine.ask import SMOLLM

T = TypeVar("T")
EOS = 2


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve_model(SMOLLM))


@cache
def fragments() -> list[int]:
    """Tokens that are a single byte, half of them no whole character; and the special tokens."""
    known = tokenizer()
    single = [token for token in range(known.vocab_size) if len(known.token_bytes(token)) == 1]
    return [*single, *sorted(known.special_ids - {EOS})]


@dataclass
class NullRunner:
    """Says the prompt again, with bytes and special tokens thrown in, or what ``script`` holds.

    Args:
        ahead: as on CUDA.
        seconds: that a step takes.
        steps: permits; each step takes one, and waits for it.
        fails_at: the launch that raises.
        script: the tokens of every output.
    """

    ahead: bool = False
    seconds: float = 0.0
    steps: threading.Semaphore | None = None
    fails_at: int | None = None
    script: Sequence[int] | None = None
    launches: int = 0

    def launch(self, plan: StepPlan, masks: Any = None) -> Done:
        self.launches += 1
        if self.steps is not None:
            assert self.steps.acquire(timeout=600), "nobody lets the engine go on"
        if self.launches == self.fails_at:
            raise ZeroDivisionError("the device is on fire")
        time.sleep(self.seconds)
        drawing = [part for part in plan.slices if part.samples]
        allowed = {} if masks is None else masks()
        tokens = {part.request: permitted(self._token(part), allowed.get(part.request)) for part in drawing}
        logprobs = {r: score(token, r.params.logprobs) for r, token in tokens.items() if r.params.logprobs is not None}
        scored = {part.request: prompt_scores(part) for part in plan.slices if part.request.params.prompt_logprobs}
        return Done(StepResult(tokens, logprobs, scored))

    def _token(self, part: Slice) -> int:
        place = part.stop - len(part.request.prompt)
        return draw(part.request, place) if self.script is None else self.script[place]

    def runs_ahead(self, plan: StepPlan) -> bool:
        return self.ahead and not any(part.request.params.logprobs is not None for part in plan.slices)

    def numerics(self) -> dict[str, str]:
        return {}


def draw(request: Request, place: int) -> int:
    """Output token number ``place``."""
    noise = derive_seed(request.seed, place)
    if noise % 60 == 0:
        return EOS
    if noise % 4 == 0:
        return fragments()[noise // 60 % len(fragments())]
    return request.prompt[place % len(request.prompt)]


def permitted(token: int, words: Words | None) -> int:
    """The token, or where a grammar's mask rules it out another one."""
    if words is None:
        return token
    ids = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
    return token if token in ids else int(ids[token % len(ids)])


def score(token: int, count: int) -> RawLogprobs:
    values, ids = -1.0 - np.arange(count, dtype=np.float32), np.arange(count, dtype=np.int32)
    return RawLogprobs(token, -0.5 - token % 7, 1 + token % 5, values, ids)


def prompt_scores(part: Slice) -> list[RawLogprobs]:
    """Of the tokens that follow the slice's own."""
    return [score(token, 1) for token in part.request.prompt[part.start + 1 : part.stop + 1]]


def null_llm(runner: NullRunner | None = None, **changes: Any) -> LLM:
    """``changes`` are fields of ``Limits``."""
    limits: dict[str, Any] = {"max_tokens": 2048, "max_seqs": 256, "blocks": 20_000, "block_size": 8}
    llm = copy.copy(_tiny())
    engine = llm._engine
    assert engine is not None
    assert isinstance(engine.core, GenerationCore)
    core = GenerationCore(engine.core.model, runner or NullRunner(), Limits(**(limits | changes)), tokenizer())
    llm.args = replace(llm.args, scheduling_policy=changes.get("policy", "fcfs"))
    llm._engine = replace(engine, core=core)
    return llm


@cache
def _tiny() -> LLM:
    """Any model, for all that surrounds it."""
    return LLM(SMOLLM, load_format="dummy", hf_overrides={"num_hidden_layers": 1}, kv_cache_memory_bytes=1 << 23,
               max_model_len=4096, device="cpu")  # fmt: skip


def serve(llm: LLM) -> AsyncLLM:
    """The asynchronous engine over the core of an LLM, which must not be used any more."""
    served: AsyncLLM = object.__new__(AsyncLLM)
    served._start(llm)
    return served


def core_of(llm: LLM | AsyncLLM) -> GenerationCore:
    core = (llm._llm if isinstance(llm, AsyncLLM) else llm)._open.core
    assert isinstance(core, GenerationCore)
    return core


def delay_grammars(core: GenerationCore, gate: threading.Event) -> None:
    """Compile nothing before the gate opens."""
    compiler = core._intake._grammars
    compiling = compiler._compile
    compiler._compile = lambda one: (gate.wait(60), compiling(one))[1]  # type: ignore[method-assign]


def run(work: Coroutine[Any, Any, T], seconds: float = 120) -> T:
    """Run a coroutine, which fails rather than hangs."""

    async def bounded() -> T:
        return await asyncio.wait_for(work, seconds)

    return asyncio.run(bounded())


async def assert_empty(llm: AsyncLLM) -> None:
    """Nothing is left of any request."""

    def check(core: Any) -> tuple[int, int]:
        core.scheduler.check()
        return core.scheduler.unfinished, core.scheduler.kv.pool.held

    assert await asyncio.wrap_future(llm._thread.call(check)) == (0, 0)
    assert not llm._streams
    assert not llm._thread._asks


LONG = SamplingParams(max_tokens=2000, ignore_eos=True, seed=1, output_kind=RequestOutputKind.DELTA)
SHORT = SamplingParams(max_tokens=4, ignore_eos=True, seed=1)


async def drain(stream: AsyncGenerator[RequestOutput, None]) -> list[RequestOutput]:
    return [output async for output in stream]


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def started(llm: AsyncLLM, name: str) -> AsyncGenerator[RequestOutput, None]:
    """A long stream of which the first output was read."""
    stream = llm.generate("some words to say", LONG, name)
    assert not (await anext(stream)).finished
    return stream
