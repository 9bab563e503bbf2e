"""What is done with a row: its prompt, its parameters, and the record that its output becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from engine.message import ChatMessage
from engine.outputs import CompletionOutput, EmbeddingRequestOutput, RequestOutput, TokenLogprobs
from engine.params import ParameterError, PoolingParams, Prompt, SamplingParams
from engine.seeds import derive_seed
from runner.config.dataset import OpenAiBatchDataset
from runner.config.identity import kept_columns
from runner.config.schema import Config
from runner.config.sections import ChatTask, EmbedTask, NativeEngine
from runner.dataset.openai_batch import PARAMETERS
from runner.task.prompts import PromptMaker, TextPrompts, TokenPrompts, chat_prompts, require_column
from runner.task.template import RowError

Params = SamplingParams | PoolingParams
Output = RequestOutput | EmbeddingRequestOutput


@dataclass(frozen=True)
class Task:
    """One task over all rows.

    Args:
        prompts: makes the prompts.
        params: of every row, but for ``sampling_columns``.
        sampling_columns: columns that replace the parameter of the same name.
        keep_columns: columns that go into the record.
        keep_prompt: whether the record shows the prompt.
        keep_token_ids: whether the record shows the output's token ids.
        seed: of the run; with a row's number it makes the seed of a row that names none. ``None`` leaves that to the
            engine.
    """

    prompts: PromptMaker
    params: Params
    sampling_columns: tuple[str, ...]
    keep_columns: tuple[str, ...]
    keep_prompt: bool
    keep_token_ids: bool
    seed: int | None = None

    @property
    def varies(self) -> bool:
        """Whether a row's parameters may be its own."""
        return bool(self.sampling_columns) or (self.seed is not None and _lacks_seed(self.params))

    def check(self, columns: Mapping[str, Any]) -> None:
        """Refuse a first row that lacks a column which the configuration names.

        Raises:
            ConfigError: the message names key, column and nearest column.
        """
        self.prompts.check(columns)
        for key, names in (("task.keep_columns", self.keep_columns), ("task.sampling_columns", self.sampling_columns)):
            for name in names:
                require_column(key, name, columns)

    def row_params(self, columns: Mapping[str, Any], number: int) -> Params:
        """The parameters of row ``number``.

        The engine would draw a seed by its own count of prompts, but a run that is resumed asks it for fewer of them.

        Raises:
            RowError: a column's value is not allowed for the parameter.
        """
        values = {name: columns[name] for name in self.sampling_columns if columns.get(name) is not None}
        try:
            params = replace(self.params, **values) if values else self.params
        except (ParameterError, TypeError) as error:
            raise RowError(str(error)) from None
        if self.seed is not None and _lacks_seed(params):
            params = copy(params)
            params.seed = derive_seed(self.seed, number)
        return params

    def kept(self, columns: Mapping[str, Any], prompt: Prompt | None) -> dict[str, Any]:
        """What of the row goes into its record; a column that this row lacks is null."""
        kept = {name: columns.get(name) for name in self.keep_columns}
        if self.keep_prompt and prompt is not None:
            kept["prompt"] = self.prompts.shown(prompt)
        return kept

    def result(self, output: Output) -> dict[str, Any]:
        """What of a successful output goes into the record."""
        prompt_tokens = len(output.prompt_token_ids)
        if isinstance(output, EmbeddingRequestOutput):
            return {"output": list(output.outputs.embedding), "prompt_tokens": prompt_tokens}
        fields: dict[str, Any] = {"output": _each(output.outputs, lambda one: one.text)}
        if output.outputs and output.outputs[0].message is not None:
            fields["message"] = _each(output.outputs, lambda one: _message(one.message))
        if self.keep_token_ids:
            fields["token_ids"] = _each(output.outputs, lambda one: list(one.token_ids))
        if output.outputs and output.outputs[0].logprobs is not None:
            fields["logprobs"] = _each(output.outputs, lambda one: [_logprobs(step) for step in one.logprobs or ()])
        if output.prompt_logprobs is not None:
            fields["prompt_logprobs"] = [_logprobs(step) for step in output.prompt_logprobs]
        fields["finish_reason"] = _each(output.outputs, lambda one: one.finish_reason)
        fields["prompt_tokens"] = prompt_tokens
        fields["output_tokens"] = output_tokens(output)
        return fields


def output_tokens(output: Output) -> int:
    """Tokens of all completions; an embedding has none."""
    return 0 if isinstance(output, EmbeddingRequestOutput) else sum(len(one.token_ids) for one in output.outputs)


def _each(outputs: Sequence[CompletionOutput], take: Any) -> Any:
    """One completion's value, or with ``n > 1`` the list of them."""
    return take(outputs[0]) if len(outputs) == 1 else [take(one) for one in outputs]


def _message(message: ChatMessage) -> dict[str, Any]:
    """A message in OpenAI's form, with every key in every row."""
    written = message.to_openai()
    calls = written.get("tool_calls", [])
    return {**written, "reasoning": message.reasoning, "tool_calls": calls, "errors": list(message.errors)}


def _logprobs(step: TokenLogprobs | None) -> list[dict[str, Any]] | None:
    if step is None:
        return None
    return [
        {"token_id": token, "logprob": entry.logprob, "rank": entry.rank, "token": entry.decoded_token}
        for token, entry in step.items()
    ]


def _lacks_seed(params: Params) -> TypeGuard[SamplingParams]:
    return isinstance(params, SamplingParams) and params.seed is None and not params.greedy


def open_task(config: Config) -> Task:
    """The task that the configuration declares.

    Raises:
        ConfigError: a template is wrong.
    """
    task, prompt, keep_columns = config.task, config.prompt, kept_columns(config)
    if isinstance(task, EmbedTask):
        params = PoolingParams(
            normalize=task.normalize,
            dimensions=task.dimensions,
            truncate_prompt_tokens=task.truncate_prompt_tokens,
        )
        return Task(TextPrompts(prompt.template or ""), params, (), keep_columns, task.keep_prompt, False)
    prompts: PromptMaker
    if isinstance(task, ChatTask):
        names = ("chat_template_kwargs", "tools", "reasoning_parser", "tool_parser")
        prompts = chat_prompts(prompt, {name: getattr(task, name) for name in names if getattr(task, name)})
    elif prompt.token_ids is not None:
        prompts = TokenPrompts(prompt.token_ids)
    else:
        prompts = TextPrompts(prompt.template or "", prompt.few_shot)
    own = PARAMETERS if isinstance(config.dataset, OpenAiBatchDataset) else ()  # a request's own parameters win
    columns = tuple(dict.fromkeys([*task.sampling_columns, *own]))
    seed = config.engine.seed if isinstance(config.engine, NativeEngine) else None
    return Task(prompts, config.sampling, columns, keep_columns, task.keep_prompt, task.keep_token_ids, seed)
