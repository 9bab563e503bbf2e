"""What the consumer of one request has still to get, and how news reach it from the engine's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.completion import Gain
from engine.flat_logprobs import given_as
from engine.logprobs import PositionLogprobs
from engine.outputs import CompletionOutput, EmbeddingRequestOutput, RequestOutput, TokenLogprobs
from engine.params import RequestOutputKind

Item = RequestOutput | EmbeddingRequestOutput | Gain | BaseException


@dataclass
class _Growth:
    """Gains of one completion, put together."""

    flat: bool
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    last: Gain | None = None

    def add(self, gain: Gain) -> None:
        if gain.text:
            self.texts.append(gain.text)
        self.token_ids += gain.token_ids
        if gain.logprobs:
            self.logprobs += gain.logprobs
        self.last = gain

    def output(self) -> CompletionOutput:
        assert self.last is not None
        text = "".join(self.texts)
        self.texts = [text]
        return CompletionOutput(
            index=self.last.child,
            text=text,
            token_ids=list(self.token_ids),
            cumulative_logprob=self.last.cumulative_logprob,
            logprobs=None if self.last.logprobs is None else given_as(self.logprobs, self.flat),
            finish_reason=self.last.finish_reason,
            stop_reason=self.last.stop_reason,
        )


class OutputStream:
    """One request's outputs for its consumer, in the consumer's event loop, which alone touches this object.

    What comes while the consumer is busy is put together, so that it waits in no more room than the output takes, and
    the next output has all of it.
    """

    def __init__(self, kind: RequestOutputKind = RequestOutputKind.FINAL_ONLY, flat: bool = False) -> None:
        """Give outputs of a kind; ``flat``: their log-probabilities in arrays."""
        self._kind = kind
        self._flat = flat
        self._growths: dict[int, _Growth] = {}
        self._head: RequestOutput | None = None
        self._final: RequestOutput | EmbeddingRequestOutput | None = None
        self._error: BaseException | None = None
        self._prompt_told = False
        self._gained = False
        self._ready = False
        self._waiter: asyncio.Future[None] | None = None  # an Event of one: half the work

    def put(self, item: Item) -> None:
        """Take what the engine tells: heads and gains, then the finished output or an error, in that order."""
        if isinstance(item, Gain):
            growth = self._growths.get(item.child)
            if growth is None:
                growth = self._growths[item.child] = _Growth(self._flat)
            growth.add(item)
            self._gained = True
        elif isinstance(item, BaseException):
            self._error = item
        elif item.finished:
            self._final = item
        else:
            assert isinstance(item, RequestOutput)
            self._head = item
            return  # gains follow
        self._ready = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> Any:
        """Wait for the next output; the last one has ``finished`` set.

        Raises:
            EngineDeadError: nothing will follow, and everything before was given out.
        """
        while not self._ready:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._ready = False
        if self._final is not None:
            return self._last(self._final)
        if self._gained:
            self._ready = self._error is not None  # which the next call raises
            self._gained = False
            return self._partial()
        assert self._error is not None
        raise self._error

    def _partial(self) -> RequestOutput:
        head = self._head
        assert head is not None
        return RequestOutput(  # spelled out: ``replace`` takes twice as long, and this is done for every token
            request_id=head.request_id,
            prompt=head.prompt,
            prompt_token_ids=head.prompt_token_ids,
            outputs=self._outputs(),
            finished=False,
            prompt_logprobs=self._prompt_logprobs(head),
            metrics=head.metrics,
            num_cached_tokens=head.num_cached_tokens,
        )

    def _last(self, final: RequestOutput | EmbeddingRequestOutput) -> RequestOutput | EmbeddingRequestOutput:
        begun = self._head is not None  # else nothing has been given out
        if isinstance(final, EmbeddingRequestOutput) or self._kind is not RequestOutputKind.DELTA or not begun:
            return final
        return replace(final, outputs=self._last_deltas(final), prompt_logprobs=self._prompt_logprobs(final))

    def _last_deltas(self, final: RequestOutput) -> Sequence[CompletionOutput]:
        """What is new in the completions that have news, and the messages of all that have one."""
        deltas = {one.index: one for one in self._outputs()}
        for one in final.outputs:
            if one.message is not None:
                nothing = replace(one, text="", token_ids=[], logprobs=one.logprobs and [])
                deltas[one.index] = replace(deltas.get(one.index, nothing), message=one.message)
        return [deltas[index] for index in sorted(deltas)]

    def _outputs(self) -> Sequence[CompletionOutput]:
        growths = self._growths
        outputs = [growths[child].output() for child in (sorted(growths) if len(growths) > 1 else growths)]
        if self._kind is RequestOutputKind.DELTA:
            self._growths = {}
        return outputs

    def _prompt_logprobs(self, output: RequestOutput) -> Sequence[TokenLogprobs | None] | None:
        """The prompt's log-probabilities; deltas have them once."""
        if output.prompt_logprobs is None or (self._prompt_told and self._kind is RequestOutputKind.DELTA):
            return None
        self._prompt_told = True
        return output.prompt_logprobs


class LoopPost:
    """Takes news from the engine's thread to the streams of one event loop, with one wake-up for all that waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._items: list[tuple[OutputStream, Item]] = []

    def send(self, items: Sequence[tuple[OutputStream, Item]]) -> bool:
        """Deliver soon, from any thread; False where the loop is closed and nobody will ever read."""
        if self.loop.is_closed():
            return False
        with self._lock:
            wake = not self._items
            self._items += items
        if wake:
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # it was closed just now
                return False
        return True

    def _deliver(self) -> None:
        with self._lock:
            items, self._items = self._items, []
        for stream, item in items:
            stream.put(item)
