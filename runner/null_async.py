"""The null engine for event loops: the interface of ``engine.AsyncLLM``, a queue with declared service times.

Requests are served in the order in which they come by ``max_num_seqs`` servers, each one request at a time. It waits by
the event loop's clock alone, so that under a loop whose clock is simulated it is a simulation.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator
from typing import cast

from engine.outputs import EmbeddingRequestOutput, RequestMetrics, RequestOutput
from engine.params import PoolingParams, Prompt, RequestOutputKind, SamplingParams
from engine.stats import EngineStats, TimelinePoint
from engine.timeline import Timeline
from runner.null_outputs import Output, Params, Speeds, Work

BEGINS, ENDS = 1, -1  # of a service; at one moment ends come first


class NullAsyncLLM:
    """Pretends to serve requests at the declared speeds; arguments as of ``runner.null_engine.NullLLM``.

    A request's moments are the declared ones: a server is busy for exactly the service time, however late the event
    loop wakes up. A request that its reader leaves keeps its server until its declared end.
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
        self._servers = [float("-inf")] * max_num_seqs  # heap of the moments at which they are free
        self._max_model_len = max_model_len
        self._fail_after = fail_after
        self._coming: list[tuple[float, int]] = []  # heap of the moments at which services begin and end
        self._waiting = self._running = self._peak = 0
        self._finished = self._prompt_tokens = self._output_tokens = 0
        self._ready: float | None = None  # the first request's moment
        self._timeline = Timeline()

    def generate(
        self, prompt: Prompt, sampling_params: SamplingParams | None, request_id: str, *, priority: int = 0
    ) -> AsyncGenerator[RequestOutput, None]:
        """Complete a prompt; unless ``output_kind`` is FINAL_ONLY each token's output comes when it is due.

        Raises:
            RuntimeError: ``fail_after`` outputs are out.
        """
        params = sampling_params or SamplingParams()
        return cast(AsyncGenerator[RequestOutput, None], self._run(Work.of(request_id, prompt, params)))

    def encode(
        self, prompt: Prompt, pooling_params: PoolingParams | None, request_id: str
    ) -> AsyncGenerator[EmbeddingRequestOutput, None]:
        """Embed a prompt; gives one output."""
        params = pooling_params or PoolingParams()
        return cast(AsyncGenerator[EmbeddingRequestOutput, None], self._run(Work.of(request_id, prompt, params)))

    async def _run(self, work: Work) -> AsyncGenerator[Output, None]:
        loop = asyncio.get_running_loop()
        arrival = loop.time()
        error = work.problem(self._max_model_len)
        if error is not None:
            yield work.refused(RequestMetrics(arrival), error)
            return
        start = max(arrival, heapq.heappop(self._servers))
        end = start + self._speeds.service(work)
        heapq.heappush(self._servers, end)
        heapq.heappush(self._coming, (start, BEGINS))
        heapq.heappush(self._coming, (end, ENDS))
        self._waiting += 1
        self._advance(arrival)
        if start > arrival:
            self._note(arrival)
        await _sleep_until(loop, start)
        async for output in self._serve(loop, work, arrival, start):
            yield output
        self._advance(loop.time())

    async def _serve(
        self, loop: asyncio.AbstractEventLoop, work: Work, arrival: float, start: float
    ) -> AsyncGenerator[Output, None]:
        """One request at its server: its tokens when they are due, then the whole output."""
        speeds, end = self._speeds, start + self._speeds.service(work)
        first = None if isinstance(work.params, PoolingParams) else start + speeds.until_token(work, 1)
        if _streams(work.params) and speeds.seconds_per_step > 0:
            for number in range(1, work.length):
                due = start + speeds.until_token(work, number)
                await _sleep_until(loop, due)
                yield work.output(RequestMetrics(arrival, start, first, due), tokens=number)
        await _sleep_until(loop, end)
        if self._fail_after is not None and self._finished >= self._fail_after:
            raise RuntimeError(f"the null engine fails after {self._fail_after} outputs, as it was told")
        self._finished += 1
        self._prompt_tokens += work.prompt_tokens
        self._output_tokens += work.length
        yield work.output(RequestMetrics(arrival, start, first, end))

    def _advance(self, now: float) -> None:
        """Let the declared begins and ends of services up to now happen, each at its own moment."""
        while self._coming and self._coming[0][0] <= now:
            moment, change = heapq.heappop(self._coming)
            self._running += change
            self._waiting -= change == BEGINS
            self._peak = max(self._peak, self._running)
            if not self._coming or self._coming[0][0] > moment:
                self._note(moment)

    def _note(self, now: float) -> None:
        """Put what is waiting and running now on the timeline."""
        if self._ready is None:
            self._ready = now
        self._timeline.add(TimelinePoint(now - self._ready, self._running, self._waiting, 0.0, self._output_tokens))

    async def stats(self) -> EngineStats:
        """Totals so far."""
        self._advance(asyncio.get_running_loop().time())
        return EngineStats(
            steps=self._finished,
            prompt_tokens=self._prompt_tokens,
            computed_tokens=self._prompt_tokens + self._output_tokens,
            output_tokens=self._output_tokens,
            finished_requests=self._finished,
            running=self._running,
            waiting=self._waiting,
            peak_running=self._peak,
            startup={"load": self._startup},
            device={"name": "null engine"},
            timeline=self._timeline.points(),
        )

    def close(self) -> None:
        """Nothing is held."""


def _streams(params: Params) -> bool:
    return isinstance(params, SamplingParams) and params.output_kind is not RequestOutputKind.FINAL_ONLY


async def _sleep_until(loop: asyncio.AbstractEventLoop, moment: float) -> None:
    delay = moment - loop.time()
    if delay > 0:
        await asyncio.sleep(delay)
