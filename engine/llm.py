"""The offline engine: ``LLM``."""

from __future__ import annotations

import difflib
import gc
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from types import TracebackType
from typing import Any, Literal, cast

from tqdm import tqdm

from engine.args import EngineArgs
from engine.build import Engine, build, set_threads
from engine.device import describe, peak_memory
from engine.generation import GenerationCore
from engine.outputs import Embedding, EmbeddingRequestOutput, RequestOutput
from engine.params import ParameterError, PoolingParams, Prompt, SamplingParams
from engine.pooling import PoolingCore
from engine.stats import EngineStats
from engine.text.inputs import Input, InputError, read_inputs

Params = SamplingParams | PoolingParams
Output = RequestOutput | EmbeddingRequestOutput
OnError = Literal["output", "raise"]

# While requests run, a step makes and drops a few objects per request, none of them in cycles: collecting at Python's
# usual pace, with all prompts on the heap, costs a third of the host's time.
RARELY = (100_000, 20, 100)
READ_AHEAD = 64  # prompts tokenized together
DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")  # that generation_config.json may set


class LLM:
    """Runs a model over prompts, in this process.

    The signatures follow vLLM's ``LLM``. Beyond it: prompts may come from any iterator, ``stream`` gives outputs as
    they finish in memory that does not grow with their number, a bad prompt becomes an output with ``error`` set, and
    ``close`` (or leaving a ``with`` block) gives the memory back.

    Args:
        model: a known short name, a local folder, a ``.gguf`` file or a hub id.
        engine_args: the fields of ``EngineArgs``.

    Raises:
        ValueError: the model or an argument cannot be used; the message says why and what is allowed.
    """

    def __init__(self, model: str, **engine_args: Any) -> None:
        set_threads()
        self.args = _read_args(model, engine_args)
        self._engine: Engine | None = build(self.args)
        self._streaming = False

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
        on_error: OnError = "output",
    ) -> list[RequestOutput]:
        """Complete prompts; outputs come in the order of the prompts.

        Args:
            prompts: one prompt or any iterable of them.
            sampling_params: one for all, or one each; ``None`` takes the model's defaults.
            use_tqdm: show a progress bar.
            priority: one each, lower first; needs ``scheduling_policy="priority"``.
            on_error: ``output`` turns a bad prompt into an output with ``error`` set, ``raise`` raises.

        Raises:
            InputError: a prompt is bad and ``on_error`` is ``raise``.
            TypeError: the model does not generate.
        """
        self._require("generate")
        items = _prompt_list(prompts)
        if priority is not None:
            items = _with_priority(items, priority, self.args.scheduling_policy)
        params: Params | Iterable[Params] = (
            self.get_default_sampling_params() if sampling_params is None else sampling_params
        )
        return cast(list[RequestOutput], self._run(items, params, use_tqdm, on_error))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Iterable[Sequence[Mapping[str, Any]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        on_error: OnError = "output",
    ) -> list[RequestOutput]:
        """Answer conversations: one, as a list of messages, or several.

        Args:
            messages: ``{"role": ..., "content": ...}`` mappings.
            sampling_params: as in ``generate``.
            use_tqdm: show a progress bar.
            chat_template: a Jinja template in place of the model's own.
            add_generation_prompt: begin the assistant's turn.
            continue_final_message: go on with the last message; excludes ``add_generation_prompt``.
            tools: function descriptions for the template.
            chat_template_kwargs: further variables of the template.
            on_error: as in ``generate``.
        """
        conversations: list[Any] = list(messages)
        if conversations and isinstance(conversations[0], Mapping):
            conversations = [conversations]
        options = {
            **(chat_template_kwargs or {}),
            "chat_template": chat_template,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "tools": tools,
        }
        prompts: list[Prompt] = [{"messages": c, "chat_template_kwargs": options} for c in conversations]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm, on_error=on_error)

    def embed(
        self,
        prompts: Prompt | Iterable[Prompt],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        *,
        use_tqdm: bool = True,
        on_error: OnError = "output",
    ) -> list[EmbeddingRequestOutput]:
        """Embed prompts; outputs come in the order of the prompts.

        Raises:
            InputError: a prompt is bad and ``on_error`` is ``raise``.
            TypeError: the model does not embed.
        """
        self._require("pooling")
        params = pooling_params or PoolingParams()
        return cast(list[EmbeddingRequestOutput], self._run(_prompt_list(prompts), params, use_tqdm, on_error))

    def stream(
        self,
        prompts: Iterable[Prompt],
        params: Params | Iterable[Params] | None = None,
        *,
        on_error: OnError = "output",
    ) -> Iterator[Output]:
        """Run prompts from any iterator, also an endless one, and yield each output as soon as it is finished.

        Prompts are pulled as the engine has room, so memory holds a window of them and never the whole. An output's
        ``request_id`` is the prompt's number in the stream, from 0. Closing the iterator drops what is unfinished.

        Args:
            prompts: any iterable of prompts.
            params: one for all, or an iterable with one each; ``None`` takes the model's defaults.
            on_error: ``output`` yields a bad prompt as an output with ``error`` set, ``raise`` raises.

        Raises:
            InputError: a prompt is bad and ``on_error`` is ``raise``.
            RuntimeError: another stream of this engine is still open.
            TypeError: parameters of the wrong kind for the model.
        """
        core = self._open.core
        if on_error not in ("output", "raise"):
            raise ParameterError("on_error", on_error, "output or raise")
        if self._streaming:
            raise RuntimeError("another stream of this LLM is open: exhaust or close it first")
        self._streaming = True
        thresholds = gc.get_threshold()
        gc.set_threshold(*RARELY)
        try:
            source = enumerate(self._paired(prompts, params))
            exhausted = False
            while not exhausted or core.unfinished:
                while not exhausted and core.unfinished < core.window:
                    count = min(READ_AHEAD, core.window - core.unfinished)
                    batch = list(itertools.islice(source, count))
                    exhausted = len(batch) < count
                    yield from self._add(batch, on_error)
                yield from core.step()
        finally:
            gc.set_threshold(*thresholds)
            self._streaming = False
            if self._engine is not None:
                core.abort_all()

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a prompt of the open stream; gives what there is of it, with the finish reason ``abort``.

        The stream does not yield it again. ``None`` where the prompt is finished, or not pulled from its iterator yet.

        Raises:
            TypeError: the model does not generate.
        """
        self._require("generate")
        return cast(GenerationCore, self._open.core).abort(request_id)

    def get_tokenizer(self) -> Any:
        """The transformers tokenizer of the model.

        Raises:
            RuntimeError: ``skip_tokenizer_init`` is set.
        """
        tokenizer = self._open.tokenizer
        if tokenizer is None:
            raise RuntimeError("this LLM has no tokenizer: skip_tokenizer_init is set")
        return tokenizer.hf

    def get_default_sampling_params(self) -> SamplingParams:
        """Sampling parameters with the defaults of the model's ``generation_config.json``."""
        config = self._open.generation_config
        return SamplingParams(**{name: config[name] for name in DEFAULTS if config.get(name) is not None})

    def reset_prefix_cache(self) -> None:
        """Forget all cached prompt beginnings."""
        self._open.core.reset_prefix_cache()

    def stats(self) -> EngineStats:
        """Counters since the engine was ready."""
        engine = self._open
        allocated, reserved = peak_memory(engine.device)
        return replace(
            engine.core.stats(),
            startup=engine.startup,
            device=describe(engine.device),
            numerics=engine.core.describe(),
            peak_allocated_bytes=allocated,
            peak_reserved_bytes=reserved,
        )

    def close(self) -> None:
        """Give the model's and the cache's memory back; the LLM cannot be used after that."""
        self._engine = None
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _open(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("this LLM is closed")
        return self._engine

    @property
    def _pooling(self) -> bool:
        return isinstance(self._open.core, PoolingCore)

    def _require(self, runner: Literal["generate", "pooling"]) -> None:
        if self._pooling != (runner == "pooling"):
            can = "embed()" if self._pooling else "generate() and chat()"
            raise TypeError(f"model {self.args.model!r} cannot do that; it offers {can}")

    def _run(
        self, prompts: list[Prompt], params: Params | Iterable[Params], use_tqdm: bool, on_error: OnError
    ) -> list[Output]:
        """All outputs, in the order of the prompts."""
        if isinstance(params, Sequence) and len(params) != len(prompts):
            raise ValueError(f"{len(params)} parameters for {len(prompts)} prompts: give one for all or one each")
        results: dict[int, Output] = {}
        with tqdm(total=len(prompts), disable=not use_tqdm, unit="prompt", dynamic_ncols=True) as bar:
            for output in self.stream(prompts, params, on_error=on_error):
                results[int(output.request_id)] = output
                bar.update()
        return [results[number] for number in range(len(prompts))]

    def _paired(
        self, prompts: Iterable[Prompt], params: Params | Iterable[Params] | None
    ) -> Iterator[tuple[Prompt, Params]]:
        """Each prompt with its parameters."""
        kind = PoolingParams if self._pooling else SamplingParams
        if params is None:
            params = PoolingParams() if self._pooling else self.get_default_sampling_params()
        each: Iterator[Params] = (
            itertools.repeat(params) if isinstance(params, (SamplingParams, PoolingParams)) else iter(params)
        )
        for prompt in prompts:
            chosen = next(each, None)
            if not isinstance(chosen, kind):
                raise TypeError(f"model {self.args.model!r} takes {kind.__name__} for each prompt, not {chosen!r}")
            yield prompt, chosen

    def _add(self, batch: Sequence[tuple[int, tuple[Prompt, Params]]], on_error: OnError) -> Iterator[Output]:
        """Queue prompts; yields an output for each that cannot be run."""
        core: Any = self._open.core
        if not self._pooling:
            core.prepare([params for _, (_, params) in batch])
        inputs = read_inputs([prompt for _, (prompt, _) in batch], self._open.tokenizer)
        for (number, (_, params)), item in zip(batch, inputs, strict=True):
            try:
                if isinstance(item, InputError):
                    raise item
                core.add(str(number), item, params)
            except InputError as error:
                if on_error == "raise":
                    raise
                yield self._failed(str(number), item, str(error))

    def _failed(self, request_id: str, item: Input | InputError, error: str) -> Output:
        ids = tuple(item.token_ids) if isinstance(item, Input) else ()
        if self._pooling:
            return EmbeddingRequestOutput(request_id, Embedding(()), ids, error=error)
        text = item.text if isinstance(item, Input) else None
        return RequestOutput(request_id, text, ids, (), error=error)


def _read_args(model: str, given: Mapping[str, Any]) -> EngineArgs:
    known = [field.name for field in fields(EngineArgs)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ParameterError(name, given[name], f"left out: it is no engine argument of Galley{hint}")
    return EngineArgs(model=model, **given)


def _prompt_list(prompts: Prompt | Iterable[Prompt]) -> list[Prompt]:
    """One prompt or many as a list; a sequence of integers is one prompt."""
    if isinstance(prompts, (str, Mapping)):
        return [cast(Prompt, prompts)]
    items = list(prompts)
    if items and isinstance(items[0], int):
        return [cast(Prompt, items)]
    return cast(list[Prompt], items)


def _with_priority(prompts: list[Prompt], priority: Sequence[int], policy: str) -> list[Prompt]:
    if policy != "priority":
        raise ParameterError("priority", list(priority), "left out unless scheduling_policy is 'priority'")
    if len(priority) != len(prompts):
        raise ValueError(f"{len(priority)} priorities for {len(prompts)} prompts: give one each")
    return [
        {**(prompt if isinstance(prompt, dict) else _as_mapping(prompt)), "priority": value}
        for prompt, value in zip(prompts, priority, strict=True)
    ]


def _as_mapping(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"prompt_token_ids": prompt}
