"""The thread that owns an engine core: commands go in through an inbox, outputs come back to event loops."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from engine.ask import Ask
from engine.books import News
from engine.collecting import RARE
from engine.errors import EngineDeadError
from engine.generation import GenerationCore
from engine.host import EngineHost
from engine.inbox import Inbox
from engine.output_stream import Item, LoopPost, OutputStream
from engine.outputs import EmbeddingRequestOutput, RequestOutput
from engine.params import ParameterError, SamplingParams
from engine.pooling import PoolingCore
from engine.replies import with_messages
from engine.sleep import AsleepError
from engine.text.inputs import Input, InputError

T = TypeVar("T")
Core = GenerationCore | PoolingCore


@dataclass(frozen=True)
class _Add:
    ask: Ask
    read: Input | InputError


@dataclass(frozen=True)
class _Call:
    """Something to do between two steps."""

    function: Callable[[Core], Any]
    future: Future[Any]


class EngineThread:
    """Runs a core, which no other thread may touch from now on.

    Between two steps it takes all commands that have come; after each it tells every event loop once what its streams
    have gained. With nothing to do it waits. An exception in a step is the engine's end: every consumer is told.
    """

    def __init__(self, host: EngineHost) -> None:
        """Take over the engine of ``host``."""
        self._host = host
        self._core: Core = host._open.core
        self._inbox: Inbox[_Add | _Call] = Inbox()
        self._todo: deque[_Add | _Call] = deque()  # taken from the inbox
        self._asks: dict[str, Ask] = {}  # in the core
        self._dead: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="galley-engine", daemon=True)
        self._thread.start()

    @property
    def cause(self) -> BaseException | None:
        """What the engine died of."""
        return self._dead

    @property
    def ident(self) -> int | None:
        """The thread's identifier."""
        return self._thread.ident

    def death(self) -> EngineDeadError:
        """The error to raise once the engine is dead."""
        error = EngineDeadError(f"the engine failed and computes no more: {self._dead!r}")
        error.__cause__ = self._dead
        return error

    def add(self, read: Sequence[tuple[Ask, Input | InputError]]) -> None:
        """Run prompts that have been read; from any thread."""
        if not self._inbox.put([_Add(ask, item) for ask, item in read]):
            for ask, _ in read:
                ask.answer(self.death() if self._dead is not None else ask.aborted())

    def abort(self, asks: Iterable[Ask]) -> Future[None]:
        """End requests, wherever they are on their way; from any thread."""
        wanted = list(asks)
        return self.call(lambda core: self._abort(wanted))

    def call(self, function: Callable[[Core], T]) -> Future[T]:
        """Do something with the core between two steps; from any thread.

        The future's errors are those of the function, ``EngineDeadError`` where the engine is dead, ``RuntimeError``
        where it is stopped.
        """
        future: Future[T] = Future()
        if not self._inbox.put([_Call(function, future)]):
            future.set_exception(self.death() if self._dead is not None else RuntimeError("this AsyncLLM is closed"))
        return future

    def stop(self) -> None:
        """Abort everything and end the thread; commands that came before are done first."""
        self.call(self._finish)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            while commands := self._inbox.take(wait=True):
                with RARE.asked():
                    self._work(commands)
        except BaseException as error:
            self._die(error)

    def _work(self, commands: Sequence[_Add | _Call]) -> None:
        """Run until nothing is left to do."""
        self._obey(commands)
        while self._core.unfinished:
            outputs: Sequence[RequestOutput | EmbeddingRequestOutput] = self._core.step()
            self._tell(self._news(), outputs)
            self._obey(self._inbox.take(wait=False))
        self._settle()

    def _obey(self, commands: Sequence[_Add | _Call]) -> None:
        """Do what was asked for."""
        self._todo.extend(commands)
        while self._todo:
            command = self._todo[0]  # stays there until it is done: whoever asked must hear of a failure
            if isinstance(command, _Call):
                _fulfil(command, self._core)
            else:
                self._add(command.ask, command.read)
            self._todo.popleft()

    def _add(self, ask: Ask, read: Input | InputError) -> None:
        if ask.state == "aborted" or self._inbox.closed:
            ask.answer(ask.aborted())
            return
        try:
            if isinstance(read, InputError):
                raise read
            self._start(ask, replace(read, priority=ask.priority) if ask.priority else read)
        except Exception as error:  # not only InputError: one bad request must not end all others
            ask.state = "done"
            self._core.abort(ask.request_id)
            told = isinstance(error, (InputError, AsleepError))
            ask.answer(self._finished(ask, ask.failed(read, str(error) if told else repr(error))))

    def _start(self, ask: Ask, prompt: Input) -> None:
        core: Any = self._host._open.core
        ask.reply = prompt.reply
        more = {"streams": ask.streams, "seed_index": ask.seed_index} if isinstance(core, GenerationCore) else {}
        core.add(ask.request_id, prompt, ask.params, arrival=ask.arrival, **more)
        ask.state = "running"
        self._asks[ask.request_id] = ask

    def _abort(self, asks: Iterable[Ask]) -> None:
        outputs = []
        for ask in asks:
            if ask.state == "running":
                outputs.append(self._core.abort(ask.request_id) or ask.aborted())
            elif ask.state == "coming":
                ask.state = "aborted"
        self._tell(self._news(), outputs)

    def _news(self) -> Sequence[News]:
        return self._core.news() if isinstance(self._core, GenerationCore) else ()

    def _tell(self, news: Sequence[News], outputs: Sequence[Any]) -> None:
        """Hand out what streams have gained, and finished outputs: one message to each event loop."""
        posts: dict[LoopPost, list[tuple[OutputStream, Item]]] = {}
        for item in news:
            ask = self._asks[item.request_id]
            posts.setdefault(ask.post, []).append((ask.stream, item))
        for output in outputs:
            ask = self._asks.pop(output.request_id)
            ask.state = "done"
            posts.setdefault(ask.post, []).append((ask.stream, self._finished(ask, output)))
        closed = {post for post, items in posts.items() if not post.send(items)}
        if closed:
            self._abort([ask for ask in self._asks.values() if ask.post in closed])

    def _finished(self, ask: Ask, output: Any) -> Item:
        """Count a finished output; a chat's gets its messages."""
        known, params = self._host._loaded.tokenizer, ask.params
        if ask.reply is not None and known is not None and isinstance(params, SamplingParams) and output.outputs:
            output = with_messages(output, ask.reply, params, known)
        self._host._meter.observe(output)
        item: Item = output
        return item

    def sleep(self, level: int, mode: str) -> Future[None]:
        """Put the engine's memory away between two steps, after ending what runs; from any thread."""

        def begin(core: Core) -> None:
            if mode == "abort":
                self._abort(list(self._asks.values()))
            if self._core.unfinished:
                raise ParameterError("mode", mode, "abort while requests run")
            self._settle()
            self._host.sleep(level, mode)

        return self.call(begin)

    def _settle(self) -> None:
        if isinstance(self._core, GenerationCore):
            self._core.settle()

    def _finish(self, core: Core) -> None:
        self._inbox.close()
        self._abort(list(self._asks.values()))

    def _die(self, error: BaseException) -> None:
        """Tell everyone who waits for this thread."""
        self._dead = error
        self._inbox.close()
        for command in [*self._todo, *self._inbox.take(wait=False)]:
            if isinstance(command, _Add):
                command.ask.answer(self.death())
            elif not command.future.done():
                command.future.set_exception(self.death())
        for ask in self._asks.values():
            ask.answer(self.death())
        self._asks.clear()


def _fulfil(command: _Call, core: Core) -> None:
    if not command.future.set_running_or_notify_cancel():
        return
    try:
        result = command.function(core)
    except Exception as error:
        command.future.set_exception(error)
    else:
        command.future.set_result(result)
