"""Requests from a lazy stream through the engine, outputs as they finish."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from engine.build import Engine
from engine.collecting import RARE
from engine.generation import GenerationCore
from engine.outputs import EmbeddingRequestOutput, RequestOutput
from engine.params import PoolingParams, Prompt, SamplingParams
from engine.pooling import PoolingCore
from engine.replies import refused, with_messages
from engine.text.inputs import Input, InputError, read_inputs
from engine.text.reply import ReplyFormat
from engine.text.tokenizer import Tokenizer

Params = SamplingParams | PoolingParams
Output = RequestOutput | EmbeddingRequestOutput
OnError = Literal["output", "raise"]

READ_AHEAD = 64  # prompts tokenized together


class Job(NamedTuple):
    """A prompt with its number in the stream and its parameters."""

    number: int
    prompt: Prompt
    params: Params


class ReadAhead:
    """Pulls jobs from an iterator in the caller's thread and tokenizes them in one of its own, a batch ahead.

    What is held beyond the engine's window is two batches: one that is being used up and one that is tokenized
    meanwhile. An exception of the iterator is kept in ``error``: what came before it is still given out.
    """

    def __init__(self, source: Iterator[tuple[Prompt, Params]], tokenizer: Tokenizer | None, batch: int) -> None:
        """Read from ``source``, ``batch`` prompts at a time."""
        self.error: Exception | None = None
        self._source = source
        self._numbers = itertools.count()
        self._tokenizer = tokenizer
        self._batch = batch
        self._thread: ThreadPoolExecutor | None = None
        self._ready: deque[tuple[Job, Input | InputError]] = deque()
        self._ahead: tuple[list[Job], Future[list[Input | InputError]]] | None = None
        self._exhausted = False
        self._fresh: list[Job] = []

    @property
    def exhausted(self) -> bool:
        """Whether everything has been taken."""
        return self._exhausted and not self._ready and self._ahead is None

    def take(self) -> tuple[Job, Input | InputError] | None:
        """The next job; ``None`` only at the end."""
        return self._ready.popleft() if self._ready or self._refill() else None

    def fresh(self) -> list[Job]:
        """The jobs that were pulled since this was last asked."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def close(self) -> None:
        """Stop the thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _refill(self) -> bool:
        if self._ahead is None:  # the first batch has nothing to run beside
            jobs = self._pull()
            self._ready.extend(zip(jobs, self._read(jobs), strict=True))
        else:
            (jobs, future), self._ahead = self._ahead, None
            self._ready.extend(zip(jobs, future.result(), strict=True))
        following = self._pull()
        if following:
            self._thread = self._thread or ThreadPoolExecutor(1, "galley-tokenize")
            self._ahead = following, self._thread.submit(self._read, following)
        return bool(self._ready)

    def _pull(self) -> list[Job]:
        jobs: list[Job] = []
        while not self._exhausted and len(jobs) < self._batch:
            try:
                prompt, params = next(self._source)
            except StopIteration:
                self._exhausted = True
            except Exception as error:  # the caller's iterator may raise anything
                self._exhausted, self.error = True, error
            else:
                jobs.append(Job(next(self._numbers), prompt, params))
        self._fresh += jobs
        return jobs

    def _read(self, jobs: list[Job]) -> list[Input | InputError]:
        return read_inputs([job.prompt for job in jobs], self._tokenizer)


class OfflineRun:
    """One stream of prompts through an engine."""

    def __init__(self, engine: Engine, source: Iterator[tuple[Prompt, Params]], on_error: OnError) -> None:
        """Run what ``source`` gives; ``on_error`` says what becomes of a prompt that cannot be run."""
        self._engine = engine
        self._core: Any = engine.core
        self._on_error = on_error
        self._reader = ReadAhead(source, engine.tokenizer, max(1, min(READ_AHEAD, engine.core.window // 2)))
        self._replies: dict[str, tuple[ReplyFormat, SamplingParams]] = {}

    def outputs(self) -> Iterator[Output]:
        """Each output as it finishes; at the end the source's exception, if it raised one."""
        core, reader = self._core, self._reader
        try:
            with RARE.asked():
                while not reader.exhausted or core.unfinished:
                    while not reader.exhausted and core.unfinished < core.window:
                        taken = reader.take()
                        self._prepare(reader.fresh())
                        if taken is not None:
                            yield from self._add(*taken)
                    for output in core.step():
                        if self._on_error == "raise" and output.error is not None and not output.outputs:
                            raise InputError(output.error)  # it never ran
                        yield self._finished(output)
            if reader.error is not None:
                raise reader.error
        finally:
            reader.close()
            core.abort_all()

    def _add(self, job: Job, item: Input | InputError) -> Iterator[Output]:
        """Queue a prompt; yields an output if it cannot be run."""
        name = str(job.number)
        try:
            self._check_kind(job.params)
            if isinstance(item, InputError):
                if isinstance(self._core, GenerationCore):
                    self._core.pass_over()
                raise item
            self._core.add(name, item, job.params)
            if item.reply is not None and isinstance(job.params, SamplingParams):
                self._replies[name] = item.reply, job.params
        except InputError as error:
            if self._on_error == "raise":
                raise
            yield refused(name, item, str(error), isinstance(self._core, PoolingCore))

    def _prepare(self, jobs: list[Job]) -> None:
        """Begin to compile the grammars of jobs that come soon."""
        params = [job.params for job in jobs if isinstance(job.params, SamplingParams)]
        if params and isinstance(self._core, GenerationCore):
            self._core.prepare(params)

    def _check_kind(self, params: Params) -> None:
        kind = PoolingParams if isinstance(self._core, PoolingCore) else SamplingParams
        if not isinstance(params, kind):
            raise TypeError(f"model {self._engine.files.name!r} takes {kind.__name__} for each prompt, not {params!r}")

    def _finished(self, output: Output) -> Output:
        reply = self._replies.pop(output.request_id, None)
        if reply is None or self._engine.tokenizer is None or not isinstance(output, RequestOutput):
            return output
        return with_messages(output, *reply, self._engine.tokenizer)
