"""Tokenizes prompts beside the engine's thread and the callers' event loops."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from engine.ask import Ask
from engine.engine_thread import EngineThread
from engine.inbox import Inbox
from engine.text.inputs import Input, InputError, read_inputs
from engine.text.tokenizer import Tokenizer


class PromptReader:
    """A thread that reads prompts in order of arrival, all that wait together, and hands them to the engine."""

    def __init__(self, tokenizer: Tokenizer | None, engine: EngineThread) -> None:
        self._tokenizer = tokenizer
        self._engine = engine
        self._inbox: Inbox[Ask] = Inbox()
        self._thread = threading.Thread(target=self._run, name="galley-prompts", daemon=True)
        self._thread.start()

    def put(self, ask: Ask) -> None:
        """Read this one next.

        Raises:
            RuntimeError: the reader is stopped.
        """
        if not self._inbox.put([ask]):
            raise RuntimeError("this AsyncLLM is closed")

    def stop(self) -> None:
        """End the thread; what it has not read is answered as aborted."""
        self._inbox.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while asks := self._inbox.take(wait=True):
            if self._inbox.closed:
                for ask in asks:
                    ask.answer(ask.aborted())
            else:
                self._engine.add(list(zip(asks, self._read(asks), strict=True)))

    def _read(self, asks: Sequence[Ask]) -> list[Input | InputError]:
        try:
            return read_inputs([ask.prompt for ask in asks], self._tokenizer)
        except Exception as error:  # whatever is wrong with one prompt, the others must not share its fate
            if len(asks) == 1:
                return [InputError(f"the prompt cannot be read: {error or type(error).__name__}")]
            return [read for ask in asks for read in self._read([ask])]
