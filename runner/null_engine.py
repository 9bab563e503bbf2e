"""An engine without a model: the interface of ``engine.LLM``, made-up outputs, declared speeds.

It tests and times everything around the engine. Outputs depend on prompt and parameters alone, as the real engine's do.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from engine.outputs import RequestMetrics
from engine.params import PoolingParams, Prompt, SamplingParams
from engine.stats import EngineStats
from runner.null_outputs import Output, Params, Speeds, Work


@dataclass(order=True, slots=True)
class _Running:
    """A request that ends when the engine's own clock shows ``end``."""

    end: float
    number: int
    work: Work = field(compare=False)
    arrival: float = field(compare=False)


class NullLLM:
    """Pretends to run up to ``max_num_seqs`` requests at once, each at the declared speeds.

    Args:
        startup_seconds: how long building it takes.
        seconds_per_step: how long an output token takes.
        max_num_seqs: requests that are served at once, and so how far the prompts are read ahead.
        max_model_len: longer prompts end as error outputs; ``None`` takes any.
        fail_after: raise RuntimeError after so many outputs; ``None`` never does.
        seconds_per_request: how long every request takes before its first token.
        seconds_per_prompt_token: what each token of its prompt adds to that.

    Where no speed is declared nothing waits, and requests end in the order of their lengths as if a token took a step.
    """

    def __init__(
        self,
        startup_seconds: float = 0.0,
        seconds_per_step: float = 0.0,
        max_num_seqs: int = 256,
        max_model_len: int | None = None,
        fail_after: int | None = None,
        seconds_per_request: float = 0.0,
        seconds_per_prompt_token: float = 0.0,
    ) -> None:
        time.sleep(startup_seconds)
        self._startup = startup_seconds
        self._speeds = Speeds(seconds_per_request, seconds_per_prompt_token, seconds_per_step)
        self._waits = not self._speeds.instant
        self._max_num_seqs = max_num_seqs
        self._max_model_len = max_model_len
        self._fail_after = fail_after
        self._clock = 0.0  # seconds of service; without speeds, steps
        self._steps = self._finished = self._prompt_tokens = self._output_tokens = self._peak = 0
        self._running: list[_Running] = []

    def __enter__(self) -> NullLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget all requests."""
        self._running.clear()

    def stream(self, prompts: Iterable[Prompt], params: Params | Iterable[Params] | None = None) -> Iterator[Output]:
        """Each prompt's output as it finishes; at most ``max_num_seqs`` prompts are read ahead.

        Raises:
            RuntimeError: ``fail_after`` outputs are out.
        """
        single = params if isinstance(params, (SamplingParams, PoolingParams)) else None
        each: Any = repeat(single or SamplingParams()) if params is None or single else iter(params)  # type: ignore[arg-type]
        pairs = enumerate(zip(prompts, each, strict=False))
        more = True
        while more or self._running:
            while more and len(self._running) < self._max_num_seqs:
                pair = next(pairs, None)
                if pair is None:
                    more = False
                    break
                bad = self._add(pair[0], *pair[1])
                if bad is not None:
                    yield bad
            self._peak = max(self._peak, len(self._running))
            yield from self._step()

    def _add(self, number: int, prompt: Prompt, params: Params) -> Output | None:
        arrival, work = time.monotonic(), Work.of(str(number), prompt, params)
        error = work.problem(self._max_model_len)
        if error is not None:
            return work.refused(RequestMetrics(arrival), error)
        service = self._speeds.service(work) if self._waits else max(work.length, 1)
        heapq.heappush(self._running, _Running(self._clock + service, number, work, arrival))
        return None

    def _step(self) -> Iterator[Output]:
        """Go on to the next moment at which a request ends, and yield all that end with it."""
        if not self._running:
            return
        ahead = self._running[0].end - self._clock
        if self._waits:
            time.sleep(ahead)
        self._clock += ahead
        self._steps += 1
        while self._running and self._running[0].end <= self._clock + 1e-9:  # ends of one step differ in the last bit
            if self._fail_after is not None and self._finished >= self._fail_after:
                raise RuntimeError(f"the null engine fails after {self._fail_after} outputs, as it was told")
            yield self._finish(heapq.heappop(self._running))

    def _finish(self, request: _Running) -> Output:
        now, work = time.monotonic(), request.work
        self._finished += 1
        self._prompt_tokens += work.prompt_tokens
        self._output_tokens += work.length
        if isinstance(work.params, PoolingParams):
            return work.output(RequestMetrics(request.arrival, request.arrival, None, now))
        first = max(now - (work.length - 1) * self._speeds.seconds_per_step, request.arrival)
        return work.output(RequestMetrics(request.arrival, request.arrival, first, now))

    def stats(self) -> EngineStats:
        """Totals so far; a step is a moment at which requests ended."""
        return EngineStats(
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            computed_tokens=self._prompt_tokens + self._output_tokens,
            output_tokens=self._output_tokens,
            finished_requests=self._finished,
            running=len(self._running),
            peak_running=self._peak,
            busy_seconds=self._clock if self._waits else 0.0,
            startup={"load": self._startup},
            device={"name": "null engine"},
        )
