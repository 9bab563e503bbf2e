"""The streams of an ``AsyncLLM`` whose consumers have not got everything, by request id."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable

from engine.ask import Ask
from engine.output_stream import LoopPost, OutputStream
from engine.params import PoolingParams, Prompt, RequestOutputKind, SamplingParams


class OpenStreams:
    """Names are unique among them. Any thread may ask; each stream belongs to the event loop that opened it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asks: dict[str, Ask] = {}
        self._posts: dict[asyncio.AbstractEventLoop, LoopPost] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._asks

    def open(self, request_id: str, prompt: Prompt, params: SamplingParams | PoolingParams, priority: int) -> Ask:
        """A new stream, of the event loop that runs here.

        Raises:
            TypeError: the id is no string.
            ValueError: the id is in use.
        """
        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string, not {request_id!r:.80}")
        kind = params.output_kind if isinstance(params, SamplingParams) else RequestOutputKind.FINAL_ONLY
        flat = isinstance(params, SamplingParams) and params.flat_logprobs
        loop = asyncio.get_running_loop()
        with self._lock:
            self._forget_closed_loops()
            if request_id in self._asks:
                raise ValueError(f"request_id {request_id!r} is in use by a request that is not through")
            post = self._posts.setdefault(loop, LoopPost(loop))
            ask = Ask(request_id, prompt, params, priority, time.monotonic(), OutputStream(kind, flat), post)
            self._asks[request_id] = ask
        return ask

    def find(self, request_ids: Iterable[str]) -> list[Ask]:
        """Those of these ids that are open."""
        with self._lock:
            return [self._asks[one] for one in request_ids if one in self._asks]

    def close(self, ask: Ask) -> None:
        """The consumer has everything, or is gone: the id is free."""
        with self._lock:
            if self._asks.get(ask.request_id) is ask:
                del self._asks[ask.request_id]

    def _forget_closed_loops(self) -> None:
        """Drop event loops that were closed, and their streams, whose generators were never ended."""
        closed = [loop for loop in self._posts if loop.is_closed()]
        for loop in closed:
            del self._posts[loop]
        if closed:
            self._asks = {name: ask for name, ask in self._asks.items() if not ask.post.loop.is_closed()}
