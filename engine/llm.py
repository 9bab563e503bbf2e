"""The offline engine: ``LLM``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from tqdm import tqdm

from engine.beam_search import BeamSearch
from engine.generation import GenerationCore
from engine.host import EngineHost
from engine.offline import OfflineRun, OnError, Output, Params
from engine.outputs import BeamSearchOutput, EmbeddingRequestOutput, PoolingOutput, PoolingRequestOutput, RequestOutput
from engine.params import BeamSearchParams, ParameterError, PoolingParams, Prompt, SamplingParams
from engine.prompting import (
    Prompts,
    check_count,
    read_conversations,
    read_prompts,
    refuse_lora,
    with_params,
    with_priority,
)
from engine.text.template import ContentFormat

Bar = bool | Callable[..., Any]
Sampling = SamplingParams | Sequence[SamplingParams]
Pooling = PoolingParams | Sequence[PoolingParams]


class LLM(EngineHost):
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

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        sampling_params: Sampling | None = None,
        *,
        use_tqdm: Bar = True,
        lora_request: object = None,
        priority: int | Sequence[int] | None = None,
        on_error: OnError = "output",
    ) -> list[RequestOutput]:
        """Complete prompts; outputs come in the order of the prompts.

        Args:
            prompts: one prompt or any iterable of them, which is pulled as the engine has room.
            sampling_params: one for all, or one each; ``None`` takes the model's defaults.
            use_tqdm: show a progress bar, or what makes one (called as ``tqdm`` is).
            lora_request: not supported yet.
            priority: one for all or one each, lower first; needs ``scheduling_policy="priority"``.
            on_error: ``output`` turns a bad prompt into an output with ``error`` set, ``raise`` raises.

        Raises:
            InputError: a prompt is bad and ``on_error`` is ``raise``.
            TypeError: the model does not generate.
            UnsupportedOptionError: a LoRA request.

        Examples:
            >>> outputs = llm.generate(["One, two, three,", "Monday, Tuesday,"], greedy, use_tqdm=False)
            >>> [output.outputs[0].text for output in outputs]
            [' four, five, six, seven,', ' Wednesday, and Thursday) to create a']
        """
        self._require("generate")
        refuse_lora(lora_request)
        items = read_prompts(prompts)
        return cast(list[RequestOutput], self._run(items, sampling_params, use_tqdm, on_error, priority))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Iterable[Sequence[Mapping[str, Any]]],
        sampling_params: Sampling | None = None,
        use_tqdm: Bar = True,
        lora_request: object = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | Path | None = None,
        chat_template_content_format: ContentFormat = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        *,
        reasoning_parser: str | None = None,
        tool_parser: str | None = None,
        on_error: OnError = "output",
    ) -> list[RequestOutput]:
        """Answer conversations: one, as a list of messages, or several.

        Args:
            messages: ``{"role": ..., "content": ...}`` mappings in OpenAI's form.
            sampling_params, use_tqdm, lora_request, priority, on_error: as in ``generate``.
            chat_template: a Jinja template, or a file with one, in place of the model's own.
            chat_template_content_format: how content reaches the template: ``string``, ``openai`` (a list of parts), or
                ``auto``, as the template reads it.
            add_generation_prompt: begin the assistant's turn.
            continue_final_message: go on with the last message; excludes ``add_generation_prompt``.
            tools: function descriptions for the template.
            chat_template_kwargs: further variables of the template.
            reasoning_parser, tool_parser: take the answer apart into ``CompletionOutput.message``; ``auto``, or a name
                that ``docs/api.md`` lists.

        Examples:
            >>> question = [{"role": "user", "content": "How many legs has a spider?"}]
            >>> llm.chat(question, greedy, use_tqdm=False)[0].outputs[0].text
            'The answer is 8. A spider'
        """
        self._require("generate")
        refuse_lora(lora_request)
        options = {
            "chat_template": chat_template,
            "chat_template_content_format": chat_template_content_format,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "tools": tools,
            "chat_template_kwargs": chat_template_kwargs,
            "reasoning_parser": reasoning_parser,
            "tool_parser": tool_parser,
        }
        conversations = read_conversations(messages)
        prompts: Iterator[Prompt] = ({"messages": one, **options} for one in conversations.items)
        items = Prompts(prompts, conversations.total)
        return cast(list[RequestOutput], self._run(items, sampling_params, use_tqdm, on_error, priority))

    def embed(
        self,
        prompts: Prompt | Iterable[Prompt],
        pooling_params: Pooling | None = None,
        *,
        use_tqdm: Bar = True,
        lora_request: object = None,
        on_error: OnError = "output",
    ) -> list[EmbeddingRequestOutput]:
        """Embed prompts; outputs come in the order of the prompts.

        Raises:
            InputError: a prompt is bad and ``on_error`` is ``raise``.
            TypeError: the model does not embed.

        Examples:
            >>> outputs = embedder.embed(["a cat", "a dog", "a tax form"], use_tqdm=False)
            >>> cat, dog, tax = (output.outputs.embedding for output in outputs)
            >>> def product(a, b):
            ...     return sum(x * y for x, y in zip(a, b))
            >>> product(cat, dog) > product(cat, tax)
            True
        """
        self._require("pooling")
        refuse_lora(lora_request)
        results = self._run(read_prompts(prompts), pooling_params, use_tqdm, on_error)
        return cast(list[EmbeddingRequestOutput], results)

    def encode(
        self,
        prompts: Prompt | Iterable[Prompt],
        pooling_params: Pooling | None = None,
        *,
        use_tqdm: Bar = True,
        lora_request: object = None,
        pooling_task: str | None = "embed",
        on_error: OnError = "output",
    ) -> list[PoolingRequestOutput]:
        """Pool prompts by a task: ``embed`` gives ``embed``'s vectors as tensors.

        Raises:
            TypeError: the model does not do this task.

        Examples:
            >>> embedder.encode("a cat", pooling_task="embed", use_tqdm=False)[0].outputs.data.shape
            torch.Size([384])
        """
        if pooling_task != "embed":
            self._cannot(f"encode(pooling_task={pooling_task!r})")
        found = self.embed(prompts, pooling_params, use_tqdm=use_tqdm, lora_request=lora_request, on_error=on_error)
        return [
            PoolingRequestOutput(
                one.request_id,
                PoolingOutput(torch.tensor(one.outputs.embedding)),
                one.prompt_token_ids,
                metrics=one.metrics,
                error=one.error,
            )
            for one in found
        ]

    def classify(self, prompts: Prompt | Iterable[Prompt], **options: Any) -> NoReturn:
        """Class probabilities: no model here gives them yet; raises TypeError.

        Examples:
            >>> embedder.classify("a cat")
            Traceback (most recent call last):
                ...
            TypeError: model 'all-minilm-l6-v2' cannot do classify(); it offers embed() and encode(pooling_task="embed")
        """
        self._cannot("classify()")

    def score(self, data_1: Any, data_2: Any, **options: Any) -> NoReturn:
        """Scores of pairs: no model here gives them yet; raises TypeError.

        Examples:
            >>> embedder.score("a cat", "a dog")
            Traceback (most recent call last):
                ...
            TypeError: model 'all-minilm-l6-v2' cannot do score(); it offers embed() and encode(pooling_task="embed")
        """
        self._cannot("score()")

    def reward(self, prompts: Prompt | Iterable[Prompt], **options: Any) -> NoReturn:
        """Rewards: no model here gives them yet; raises TypeError.

        Examples:
            >>> embedder.reward("a cat")
            Traceback (most recent call last):
                ...
            TypeError: model 'all-minilm-l6-v2' cannot do reward(); it offers embed() and encode(pooling_task="embed")
        """
        self._cannot("reward()")

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams,
        lora_request: object = None,
        use_tqdm: Bar = False,
        concurrency_limit: int | None = None,
        *,
        on_error: OnError = "output",
    ) -> list[BeamSearchOutput]:
        """The ``beam_width`` likeliest continuations of each prompt, best first.

        Args:
            prompts: one prompt or a sequence of them.
            params: how wide and how far to search.
            lora_request: not supported yet.
            use_tqdm: show a progress bar over tokens.
            concurrency_limit: search at most so many prompts at once; ``None`` searches all together.
            on_error: as in ``generate``.

        Examples:
            >>> found = llm.beam_search("The capital of France is", BeamSearchParams(beam_width=3, max_tokens=2))
            >>> found[0].sequences[0].text
            'The capital of France is Paris.'
        """
        self._require("generate")
        refuse_lora(lora_request)
        items = list(read_prompts(prompts).items)
        size = concurrency_limit or max(1, len(items))
        model = cast(GenerationCore, self._open.core).model

        def run(prompts: Sequence[Prompt], sampling: SamplingParams) -> list[RequestOutput]:
            return self.generate(prompts, sampling, use_tqdm=False, on_error=on_error)

        search = BeamSearch(run, params, model.eos_ids, model.max_model_len, self._open.tokenizer)
        outputs: list[BeamSearchOutput] = []
        steps = -(-len(items) // size) * params.max_tokens
        with _bar(use_tqdm, steps, "token") as bar:
            for start in range(0, len(items), size):
                for found in search.search(items[start : start + size]):
                    outputs += found or ()
                    bar.update(found is None)
        return outputs

    def stream(
        self,
        prompts: Iterable[Prompt],
        params: Params | Iterable[Params] | None = None,
        *,
        on_error: OnError = "output",
    ) -> Iterator[Output]:
        """Run prompts from any iterator, also an endless one, and yield each output as soon as it is finished.

        Prompts are pulled in this thread as the engine has room, and tokenized beside it a batch ahead, so memory holds
        a window of them and never the whole. An output's ``request_id`` is the prompt's number in the stream, from 0.
        Where ``prompts`` raises an exception, what was pulled before is finished and yielded, then the exception goes
        on. Closing the stream drops what is unfinished.

        Args:
            prompts: any iterable of prompts.
            params: one for all, or an iterable with one each; ``None`` takes the model's defaults.
            on_error: ``output`` yields a bad prompt as an output with ``error`` set, ``raise`` raises.

        Raises:
            InputError: a prompt is bad and ``on_error`` is ``raise``.
            RuntimeError: another stream of this engine is still open.
            TypeError: parameters of the wrong kind for the model.

        Examples:
            >>> numbers = (f"The number after {i} is" for i in itertools.count())  # endless
            >>> outputs = llm.stream(numbers, greedy)
            >>> [next(outputs).finished for _ in range(3)]
            [True, True, True]
            >>> outputs.close()  # drops what is unfinished
        """
        engine = self._open
        if on_error not in ("output", "raise"):
            raise ParameterError("on_error", on_error, "output or raise")
        if self._streaming:
            raise RuntimeError("another stream of this LLM is open: exhaust or close it first")
        if params is None:
            params = PoolingParams() if self._pooling else self.get_default_sampling_params()
        self._streaming = True
        try:
            for output in OfflineRun(engine, with_params(prompts, params, self.args.model), on_error).outputs():
                self._meter.observe(output)
                yield output
        finally:
            self._streaming = False

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a prompt of the open stream; gives what there is of it, with the finish reason ``abort``.

        The stream does not yield it again. ``None`` where the prompt is finished, or has not reached the engine yet.

        Raises:
            TypeError: the model does not generate.

        Examples:
            >>> long = SamplingParams(max_tokens=400, ignore_eos=True)
            >>> outputs = llm.stream(["Once upon a time", "One, two,"], [long, greedy])
            >>> next(outputs).request_id
            '1'
            >>> llm.abort("0").outputs[0].finish_reason
            'abort'
            >>> list(outputs)
            []
        """
        self._require("generate")
        output = cast(GenerationCore, self._open.core).abort(request_id)
        if output is not None:
            self._meter.observe(output)
        return output

    def _run(
        self,
        prompts: Prompts,
        params: Params | Sequence[Params] | None,
        use_tqdm: Bar,
        on_error: OnError,
        priority: int | Sequence[int] | None = None,
    ) -> list[Output]:
        """All outputs, in the order of the prompts."""
        if priority is not None:
            prompts = with_priority(prompts, priority, self.args.scheduling_policy)
        check_count(prompts.total, params, "parameters")
        results: dict[int, Output] = {}
        with _bar(use_tqdm, prompts.total, "prompt") as bar:
            for output in self.stream(prompts.items, params, on_error=on_error):
                results[int(output.request_id)] = output
                bar.update()
        return [results[number] for number in sorted(results)]

    def _cannot(self, what: str) -> NoReturn:
        raise TypeError(f"model {self.args.model!r} cannot do {what}; it offers {self._offers}")


def _bar(use_tqdm: Bar, total: int | None, unit: str) -> Any:
    make: Callable[..., Any] = use_tqdm if callable(use_tqdm) else tqdm
    shown = {} if use_tqdm else {"disable": True}
    return make(total=total, desc=f"Processed {unit}s", unit=unit, dynamic_ncols=True, **shown)
