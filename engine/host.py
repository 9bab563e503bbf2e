"""A model in memory: how it comes, how it sleeps, what it counts, how it goes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from types import TracebackType
from typing import Any, Literal, Self

from engine.args import EngineArgs
from engine.build import Engine, build
from engine.defaults import default_sampling_params
from engine.device import describe, peak_memory, release_memory, set_threads
from engine.metrics import Metric, RequestMeter
from engine.params import ParameterError, SamplingParams
from engine.pooling import PoolingCore
from engine.sleep import AsleepError, Sleep
from engine.stats import EngineStats


class EngineHost:
    """Owns an engine from its arguments to ``close``; what is asked of it is its heirs' matter.

    Raises:
        ValueError: the model or an argument cannot be used; the message says why and what is allowed.
    """

    def __init__(self, model: str, **engine_args: Any) -> None:
        set_threads()
        self.args = read_args(model, engine_args)
        self._engine: Engine | None = build(self.args)
        self._sleep = Sleep()
        self._meter = RequestMeter()
        self._streaming = False

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> Self:
        """An engine from arguments that are put together already.

        Examples:
            >>> LLM.from_engine_args(EngineArgs(model="all-minilm-l6-v2")).close()
        """
        return cls(**as_keywords(engine_args))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.args.model!r})"

    def get_tokenizer(self) -> Any:
        """The transformers tokenizer of the model.

        Raises:
            RuntimeError: ``skip_tokenizer_init`` is set.

        Examples:
            >>> llm.get_tokenizer().decode([504, 3575])
            'The capital'
        """
        tokenizer = self._loaded.tokenizer
        if tokenizer is None:
            raise RuntimeError("this LLM has no tokenizer: skip_tokenizer_init is set")
        return tokenizer.hf

    def get_default_sampling_params(self) -> SamplingParams:
        """What a request gets that brings no parameters: the defaults of ``generation_config`` and its overrides.

        Examples:
            >>> params = llm.get_default_sampling_params()
            >>> params.max_tokens = 50
            >>> params.temperature, params.max_tokens
            (1.0, 50)
        """
        return default_sampling_params(self._loaded.generation_config)

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prompt beginnings; running requests keep theirs.

        Examples:
            >>> llm.reset_prefix_cache()
            True
        """
        self._open.core.reset_prefix_cache()
        return True

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Give memory back until ``wake_up``; what needs the model until then raises ``AsleepError``.

        Cached prompt beginnings are forgotten, counters and seeds go on: outputs after waking are those that there
        would have been without sleep.

        Args:
            level: 1 drops the KV cache and keeps the weights in host memory; 2 drops both, and ``wake_up`` reads the
                weights again.
            mode: what becomes of running requests (``abort``, ``wait``, ``keep``). Between calls there are none.

        Raises:
            ParameterError: there is no such level or mode.
            RuntimeError: a stream is open.

        Examples:
            >>> embedder.sleep(level=1)
            >>> embedder.embed("a cat", use_tqdm=False)
            Traceback (most recent call last):
                ...
            engine.sleep.AsleepError: this LLM is asleep: call wake_up() first
            >>> embedder.wake_up()
            True
        """
        engine = self._loaded
        if self._streaming:
            raise RuntimeError("a stream of this LLM is open: exhaust or close it before sleep()")
        self._sleep.begin(engine, level, mode)

    def wake_up(self, tags: Iterable[str] | None = None) -> bool:
        """Take the memory again, all of it or what ``tags`` names; gives whether the engine is wholly awake.

        Args:
            tags: of ``weights`` and ``kv_cache``; the cache is allocated once the weights are there.

        Raises:
            ParameterError: an unknown tag.

        Examples:
            >>> embedder.sleep()
            >>> embedder.wake_up()
            True
            >>> embedder.is_sleeping()
            False
        """
        return self._sleep.end(self._loaded, tags)

    def is_sleeping(self) -> bool:
        """Whether ``sleep`` was called and ``wake_up`` has not brought everything back.

        Examples:
            >>> llm.is_sleeping()
            False
        """
        return self._sleep.asleep

    def get_metrics(self) -> list[Metric]:
        """Counters, gauges and histograms of everything so far, named as in vLLM with ``galley:`` before the name.

        Examples:
            >>> [metric.value for metric in llm.get_metrics() if metric.name == "galley:num_requests_running"]
            [0]
        """
        labels = {"model_name": self.args.model, "engine": "0"}
        return self._meter.metrics(self.stats(), labels, self.is_sleeping())

    def stats(self) -> EngineStats:
        """Counters since the engine was ready.

        Examples:
            >>> before = llm.stats().output_tokens
            >>> outputs = llm.generate("One, two,", greedy, use_tqdm=False)
            >>> llm.stats().output_tokens - before
            8
        """
        engine = self._loaded
        allocated, reserved = peak_memory(engine.device)
        return replace(
            engine.core.stats(),
            startup=engine.startup,
            device=describe(engine.device),
            numerics=self._sleep.numerics if self.is_sleeping() else engine.core.describe(),
            peak_allocated_bytes=allocated,
            peak_reserved_bytes=reserved,
        )

    def close(self) -> None:
        """Give the model's and the cache's memory back; the LLM cannot be used after that.

        Examples:
            >>> other = LLM("all-minilm-l6-v2")
            >>> other.close()
            >>> other.embed("a cat")
            Traceback (most recent call last):
                ...
            RuntimeError: this LLM is closed
        """
        device = None if self._engine is None else self._engine.device
        self._engine = None
        self._sleep = Sleep()
        if device is not None:
            release_memory(device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _loaded(self) -> Engine:
        """The engine, awake or not."""
        if self._engine is None:
            raise RuntimeError("this LLM is closed")
        return self._engine

    @property
    def _open(self) -> Engine:
        """The engine, awake."""
        engine = self._loaded
        if self.is_sleeping():
            raise AsleepError("this LLM is asleep: call wake_up() first")
        return engine

    @property
    def _pooling(self) -> bool:
        return isinstance(self._loaded.core, PoolingCore)

    def _require(self, runner: Literal["generate", "pooling"]) -> None:
        if self._pooling != (runner == "pooling"):
            raise TypeError(f"model {self.args.model!r} cannot do that; it offers {self._offers}")

    @property
    def _offers(self) -> str:
        return 'embed() and encode(pooling_task="embed")' if self._pooling else "generate() and chat()"


def as_keywords(args: EngineArgs) -> dict[str, Any]:
    """What ``read_args`` reads the same arguments from, the model among them."""
    return {field.name: getattr(args, field.name) for field in fields(args)}


def read_args(model: str, given: Mapping[str, Any]) -> EngineArgs:
    """Engine arguments from keywords.

    Raises:
        ParameterError: one of them is unknown; the message names the nearest one.
    """
    known = [field.name for field in fields(EngineArgs)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ParameterError(name, given[name], f"left out: it is no engine argument of Galley{hint}")
    return EngineArgs(model=model, **given)
