"""The asynchronous engines as a load needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from engine.outputs import EmbeddingRequestOutput, RequestOutput
from engine.params import PoolingParams, Prompt, RequestOutputKind, SamplingParams
from engine.stats import EngineStats
from runner.recorder import Output, Request


class AsyncEngine(Protocol):
    """What a load asks; ``engine.AsyncLLM`` and ``runner.null_async.NullAsyncLLM`` have it."""

    def generate(
        self, prompt: Prompt, sampling_params: SamplingParams | None, request_id: str
    ) -> AsyncIterator[RequestOutput]:
        """Outputs of one request; the last one is finished."""

    def encode(
        self, prompt: Prompt, pooling_params: PoolingParams | None, request_id: str
    ) -> AsyncIterator[EmbeddingRequestOutput]:
        """The embedding of one prompt."""

    async def stats(self) -> EngineStats:
        """Totals so far."""

    def close(self) -> None:
        """Give everything back."""


class LoadEngine:
    """An asynchronous engine, with totals that any thread may read.

    Args:
        engine: closed by ``close``.
        stream: whether outputs are asked for token by token.
    """

    def __init__(self, engine: AsyncEngine, stream: bool) -> None:
        self._engine = engine
        self._kind = RequestOutputKind.CUMULATIVE if stream else RequestOutputKind.FINAL_ONLY
        self._stats = EngineStats()

    def ask(self, request: Request, request_id: str) -> AsyncIterator[Output]:
        """The request's outputs, in the running event loop; the last one is what ``LLM`` would give."""
        params = request.params
        if isinstance(params, PoolingParams):
            return self._engine.encode(request.prompt, params, request_id)
        if params.output_kind is not self._kind:
            params = replace(params, output_kind=self._kind)
        return self._engine.generate(request.prompt, params, request_id)

    def stats(self) -> EngineStats:
        """Totals so far; of an engine that died, the last that it told. Not from within an event loop."""
        try:
            self._stats = asyncio.run(self._engine.stats())
        except Exception:  # it is dead or closed, and whoever reads its streams is told why
            return self._stats
        return self._stats

    def close(self) -> None:
        """Give the engine back."""
        self._engine.close()
