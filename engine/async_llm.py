"""The engine for event loops: ``AsyncLLM``."""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections.abc import AsyncGenerator, Iterable
from functools import cached_property
from types import TracebackType
from typing import Any, cast

from engine.args import EngineArgs
from engine.ask import Ask
from engine.engine_thread import EngineThread
from engine.errors import EngineDeadError
from engine.generation import GenerationCore
from engine.host import as_keywords
from engine.llm import LLM
from engine.metrics import Metric
from engine.open_streams import OpenStreams
from engine.outputs import EmbeddingRequestOutput, RequestOutput
from engine.params import ParameterError, PoolingParams, Prompt, SamplingParams
from engine.params.sampling import taken
from engine.prompt_reader import PromptReader
from engine.prompting import refuse_lora
from engine.sleep import AsleepError
from engine.stats import EngineStats


class AsyncLLM:
    """Runs a model for any number of concurrent streams, in this process.

    The signatures follow vLLM's ``AsyncLLM``. The engine runs in a thread of its own and prompts are tokenized in
    another, so an event loop is never blocked. Requests may come from several event loops and threads at once; each
    belongs to the loop in which its stream is read.

    A stream that is left (``break``, an exception, a cancelled task, a generator that is collected) ends its request
    and frees its memory. A slow reader holds nobody up: what comes meanwhile is put together and given as one output.

    Tokens are those of ``LLM``. A request without a seed draws from the engine's seed and its ``request_id``, whatever
    else arrives, before or beside it; with the ids ``"0"``, ``"1"`` and so on it draws what ``LLM`` draws for the
    prompts of its first call.

    Args:
        model: a known short name, a local folder, a ``.gguf`` file or a hub id.
        engine_args: the fields of ``EngineArgs``.

    Raises:
        ValueError: the model or an argument cannot be used; the message says why and what is allowed.
    """

    def __init__(self, model: str, **engine_args: Any) -> None:
        self._start(LLM(model, **engine_args))

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> AsyncLLM:
        """An engine from arguments that are put together already.

        Examples:
            >>> AsyncLLM.from_engine_args(EngineArgs(model="all-minilm-l6-v2")).close()
        """
        return cls(**as_keywords(engine_args))

    def _start(self, llm: LLM) -> None:
        """Take over a ready engine."""
        self._llm = llm
        self._generates = isinstance(llm._open.core, GenerationCore)
        self._thread = EngineThread(llm)
        self._reader = PromptReader(llm._open.tokenizer, self._thread)
        self._streams = OpenStreams()
        self._stop = weakref.finalize(self, _stop, self._reader, self._thread)

    def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None,
        request_id: str,
        *,
        lora_request: object = None,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Complete a prompt, which begins when the first output is asked for.

        ``sampling_params.output_kind`` decides what is given on the way: ``CUMULATIVE`` everything so far, ``DELTA``
        what is new in text, token ids and log-probabilities (of those completions that have news), ``FINAL_ONLY`` the
        finished output alone. Text is never taken back; the deltas together are the text that ``LLM`` gives. The last
        output has ``finished`` set. A prompt that cannot be run gives one output with ``error`` set.

        Args:
            prompt: text, token ids or a mapping, as for ``LLM``; a conversation is ``{"messages": [...]}``.
            sampling_params: ``None`` takes the model's defaults.
            request_id: no other request may have it until this one is through.
            lora_request: not supported yet.
            priority: lower first; needs ``scheduling_policy="priority"``.

        Raises:
            TypeError: the model does not generate, or an argument has the wrong type.
            ParameterError: a priority under another policy.
            UnsupportedOptionError: a LoRA request.
            ValueError: the id is in use.
            EngineDeadError: the engine has failed; ``__cause__`` says how.
            RuntimeError: the engine is closed, or asleep.

        Examples:
            >>> async def first_words():
            ...     params = SamplingParams(temperature=0, max_tokens=6, output_kind="delta")
            ...     return [output.outputs[0].text async for output in engine.generate("One, two, three,", params, "a")]
            >>> "".join(asyncio.run(first_words()))
            ' four, five, six,'
        """
        self._require(self._generates, "generate()")
        refuse_lora(lora_request)
        params = self.get_default_sampling_params() if sampling_params is None else sampling_params
        if not isinstance(params, SamplingParams):
            raise TypeError(f"sampling_params must be SamplingParams, not {params!r:.80}")
        if priority and self._llm.args.scheduling_policy != "priority":
            raise ParameterError("priority", priority, "0 unless scheduling_policy is 'priority'")
        return cast(AsyncGenerator[RequestOutput, None], self._run(prompt, taken(params), request_id, priority))

    def encode(
        self, prompt: Prompt, pooling_params: PoolingParams | None, request_id: str
    ) -> AsyncGenerator[EmbeddingRequestOutput, None]:
        """Embed a prompt; gives one output.

        Args:
            prompt: text, token ids or a mapping.
            pooling_params: ``None`` takes the defaults.
            request_id: no other request may have it until this one is through.

        Raises:
            TypeError: the model does not embed, or an argument has the wrong type.
            ValueError: the id is in use.
            EngineDeadError: the engine has failed; ``__cause__`` says how.
            RuntimeError: the engine is closed.

        Examples:
            >>> async def dimensions():
            ...     async with AsyncLLM("all-minilm-l6-v2") as embedder:
            ...         async for output in embedder.encode("a cat", None, "a"):
            ...             return len(output.outputs.embedding)
            >>> asyncio.run(dimensions())
            384
        """
        self._require(not self._generates, "encode()")
        params = PoolingParams() if pooling_params is None else pooling_params
        if not isinstance(params, PoolingParams):
            raise TypeError(f"pooling_params must be PoolingParams, not {params!r:.80}")
        return cast(AsyncGenerator[EmbeddingRequestOutput, None], self._run(prompt, params, request_id, 0))

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End one request or several, from any event loop; on return they hold no memory of the cache.

        Whoever reads their streams gets what there is, with the finish reason ``abort``. Ids of requests that are
        finished, or that never were, are passed over: a request may always end before its abort arrives.

        Examples:
            >>> async def cut_off():
            ...     params = SamplingParams(max_tokens=500, ignore_eos=True)
            ...     async for output in engine.generate("Once upon a time", params, "long"):
            ...         await engine.abort("long")
            ...     return output.outputs[0].finish_reason
            >>> asyncio.run(cut_off())
            'abort'
        """
        asks = self._streams.find([request_id] if isinstance(request_id, str) else request_id)
        if asks and not self.errored:
            await asyncio.wrap_future(self._thread.abort(asks))

    async def check_health(self) -> None:
        """Nothing where the engine is well.

        Raises:
            EngineDeadError: it has failed.
            RuntimeError: it is closed.

        Examples:
            >>> asyncio.run(engine.check_health())
        """
        self._check()

    @property
    def errored(self) -> bool:
        """Whether the engine has failed.

        Examples:
            >>> engine.errored
            False
        """
        return self._thread.cause is not None

    @property
    def is_running(self) -> bool:
        """Whether the engine takes requests.

        Examples:
            >>> engine.is_running
            True
        """
        return self._stop.alive and not self.errored

    @property
    def dead_error(self) -> EngineDeadError:
        """What is raised once the engine has failed.

        Examples:
            >>> try:
            ...     asyncio.run(engine.check_health())
            ... except EngineDeadError as error:
            ...     print(error)
        """
        return self._thread.death()

    def get_tokenizer(self) -> Any:
        """A transformers tokenizer of the caller's own: the engine's is in use by other threads.

        Raises:
            RuntimeError: ``skip_tokenizer_init`` is set.

        Examples:
            >>> engine.get_tokenizer().decode([504, 3575])
            'The capital'
        """
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        return copy.deepcopy(self._llm.get_tokenizer())

    def get_default_sampling_params(self) -> SamplingParams:
        """Sampling parameters with the defaults of the model's ``generation_config.json``.

        Examples:
            >>> engine.get_default_sampling_params().temperature
            1.0
        """
        return self._llm.get_default_sampling_params()

    async def reset_prefix_cache(self) -> bool:
        """Forget all cached prompt beginnings; true, as that cannot fail.

        Examples:
            >>> asyncio.run(engine.reset_prefix_cache())
            True
        """
        await asyncio.wrap_future(self._thread.call(lambda core: core.reset_prefix_cache()))
        return True

    async def stats(self) -> EngineStats:
        """Counters since the engine was ready, between two steps.

        Examples:
            >>> asyncio.run(engine.stats()).running
            0
        """
        llm = self._llm
        return await asyncio.wrap_future(self._thread.call(lambda core: llm.stats()))

    async def get_metrics(self) -> list[Metric]:
        """Counters, gauges and histograms, as those of ``LLM``.

        Examples:
            >>> metrics = asyncio.run(engine.get_metrics())
            >>> [metric.value for metric in metrics if metric.name == "galley:num_requests_waiting"]
            [0]
        """
        llm = self._llm
        return await asyncio.wrap_future(self._thread.call(lambda core: llm.get_metrics()))

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Give memory back until ``wake_up``; requests that come meanwhile are refused.

        Args:
            level: as in ``LLM``.
            mode: ``abort`` ends running requests; their readers get what there is. Any other is refused while some run.

        Raises:
            ParameterError: there is no such level or mode, or it is not possible now.

        Examples:
            >>> asyncio.run(engine.sleep())
            >>> asyncio.run(engine.is_sleeping())
            True
            >>> asyncio.run(engine.wake_up())
            True
        """
        await asyncio.wrap_future(self._thread.sleep(level, mode))

    async def wake_up(self, tags: Iterable[str] | None = None) -> bool:
        """Take the memory again, as ``LLM`` does.

        Examples:
            >>> asyncio.run(engine.sleep())
            >>> asyncio.run(engine.wake_up())
            True
        """
        llm = self._llm
        return await asyncio.wrap_future(self._thread.call(lambda core: llm.wake_up(tags)))

    async def is_sleeping(self) -> bool:
        """Whether the engine's memory is put away.

        Examples:
            >>> asyncio.run(engine.is_sleeping())
            False
        """
        return self._llm.is_sleeping()

    def shutdown(self) -> None:
        """End every request (its reader gets what there is, with the finish reason ``abort``), and give the memory
        back; blocks until the step that runs is through. May be called from anywhere, and twice.

        Examples:
            >>> other = AsyncLLM("all-minilm-l6-v2")
            >>> other.shutdown()
            >>> other.is_running
            False
        """
        self._stop()
        self._llm.close()

    def close(self) -> None:
        """The same as ``shutdown``.

        Examples:
            >>> other = AsyncLLM("all-minilm-l6-v2")
            >>> other.close()
            >>> other.is_running
            False
        """
        self.shutdown()

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.shutdown)

    def _require(self, can: bool, method: str) -> None:
        if not can:
            offers = "generate()" if self._generates else "encode()"
            raise TypeError(f"model {self._llm.args.model!r} cannot do {method}; it offers {offers}")

    def _check(self) -> None:
        if self.errored:
            raise self._thread.death()
        if not self._stop.alive:
            raise RuntimeError("this AsyncLLM is closed")

    async def _run(
        self, prompt: Prompt, params: SamplingParams | PoolingParams, request_id: str, priority: int
    ) -> AsyncGenerator[RequestOutput | EmbeddingRequestOutput, None]:
        """All outputs of one request."""
        ask = self._admit(prompt, params, request_id, priority)
        finished = False
        try:
            while not finished:
                output = await ask.stream.next()
                finished = output.finished
                yield output
        finally:
            if not finished:
                self._thread.abort([ask])  # before the id is free: what takes it next comes to the engine later
            self._streams.close(ask)

    def _admit(self, prompt: Prompt, params: SamplingParams | PoolingParams, request_id: str, priority: int) -> Ask:
        """Send a request on its way."""
        self._check()
        if self._llm.is_sleeping():
            raise AsleepError("this AsyncLLM is asleep: await wake_up() first")
        ask = self._streams.open(request_id, prompt, params, priority)
        try:
            self._reader.put(ask)
        except RuntimeError:
            self._streams.close(ask)
            raise
        return ask


def _stop(reader: PromptReader, thread: EngineThread) -> None:
    reader.stop()
    thread.stop()
