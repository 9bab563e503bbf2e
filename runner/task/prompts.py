"""Rows as prompts for the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from engine.params import Prompt
from runner.config.metrics import QualitySection, reference_of
from runner.config.sections import FewShotSection, Message, PromptSection
from runner.errors import ConfigError, listing, nearest
from runner.task.few_shot import examples
from runner.task.template import FixedText, PromptTemplate, RowError


class PromptMaker(Protocol):
    """Makes one prompt from one row's columns."""

    def check(self, columns: Mapping[str, Any]) -> None:
        """Refuse a first row that lacks what the prompts need, with ConfigError."""

    def make(self, columns: Mapping[str, Any]) -> Prompt:
        """The prompt, or RowError."""

    def shown(self, prompt: Prompt) -> Any:
        """The prompt as the output record keeps it."""


class TextPrompts:
    """A text from one template, after the examples."""

    def __init__(self, template: str, few_shot: FewShotSection | None = None) -> None:
        self._template = PromptTemplate("prompt.template", template)
        shown = [] if few_shot is None else examples(few_shot, self._template)
        self._before = "".join(question + answer + few_shot.separator for question, answer in shown if few_shot)

    def check(self, columns: Mapping[str, Any]) -> None:
        """The template's columns must be there."""
        self._template.check(columns)

    def make(self, columns: Mapping[str, Any]) -> Prompt:
        """The examples and the rendered text."""
        return self._before + self._template.render(columns)

    def shown(self, prompt: Prompt) -> Any:
        """The text."""
        return prompt


class TokenPrompts:
    """Token ids from a column."""

    def __init__(self, column: str) -> None:
        self._column = column

    def check(self, columns: Mapping[str, Any]) -> None:
        """The column must be there."""
        require_column("prompt.token_ids", self._column, columns)

    def make(self, columns: Mapping[str, Any]) -> Prompt:
        """The column's ids."""
        ids = columns.get(self._column)
        if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
            raise RowError(f"the column {self._column!r} must hold a list of token ids")
        return ids

    def shown(self, prompt: Prompt) -> Any:
        """The ids."""
        return prompt


class ChatPrompts:
    """A conversation from templates; the engine applies the model's chat template."""

    def __init__(self, messages: tuple[Message, ...], options: Mapping[str, Any]) -> None:
        self._turns: list[tuple[str, PromptTemplate | FixedText]] = [
            (turn.role, PromptTemplate(f"prompt.messages[{number}]", turn.content))
            for number, turn in enumerate(messages)
        ]
        self._options = options

    def check(self, columns: Mapping[str, Any]) -> None:
        """The columns of every turn must be there."""
        for _, template in self._turns:
            template.check(columns)

    def make(self, columns: Mapping[str, Any]) -> Prompt:
        """The rendered turns."""
        messages = [{"role": role, "content": template.render(columns)} for role, template in self._turns]
        return _conversation(messages, self._options)

    def shown(self, prompt: Prompt) -> Any:
        """The turns."""
        return prompt["messages"] if isinstance(prompt, dict) else prompt


class SystemUserPrompts(ChatPrompts):
    """The usual conversation: an optional system text, the examples' turns, and the user's text."""

    def __init__(self, prompt: PromptSection, options: Mapping[str, Any]) -> None:
        super().__init__((), options)
        user = PromptTemplate("prompt.user", prompt.user or "")
        shown = [] if prompt.few_shot is None else examples(prompt.few_shot, user)
        system = [] if prompt.system is None else [("system", PromptTemplate("prompt.system", prompt.system))]
        pairs = [(("user", FixedText(question)), ("assistant", FixedText(answer))) for question, answer in shown]
        self._turns = [*system, *(turn for pair in pairs for turn in pair), ("user", user)]


class ConversationPrompts(ChatPrompts):
    """Whole conversations from a column: a list of ``{role, content}``."""

    def __init__(self, column: str, options: Mapping[str, Any]) -> None:
        super().__init__((), options)
        self._column = column

    def check(self, columns: Mapping[str, Any]) -> None:
        """The column must be there."""
        require_column("prompt.messages", self._column, columns)

    def make(self, columns: Mapping[str, Any]) -> Prompt:
        """The column's turns."""
        messages = columns.get(self._column)
        turns = isinstance(messages, list) and all(
            isinstance(turn, Mapping) and isinstance(turn.get("role"), str) for turn in messages
        )
        if not turns or not messages:
            raise RowError(f"the column {self._column!r} must hold a list of {{role, content}}")
        return _conversation(messages, self._options)


def _conversation(messages: list[Any], options: Mapping[str, Any]) -> Prompt:
    return {"messages": messages, **options}


def require_column(key: str, column: str, columns: Mapping[str, Any]) -> None:
    """Refuse a configured column that the first row does not have.

    Raises:
        ConfigError: the message names the key, the column and the nearest one.
    """
    if column not in columns:
        raise ConfigError(
            f"{key} names the column {column!r}, which the first row does not have{nearest(column, columns)}\n"
            f"columns: {listing(columns)}"
        )


def check_references(metrics: Sequence[QualitySection], columns: Mapping[str, Any]) -> None:
    """Refuse a first row that lacks a metric's reference.

    Raises:
        ConfigError: the message names the metric, the column and the nearest one.
    """
    for number, metric in enumerate(metrics):
        reference = reference_of(metric)
        if reference is not None:
            require_column(f"metrics[{number}].reference", reference, columns)


def chat_prompts(prompt: PromptSection, options: Mapping[str, Any]) -> PromptMaker:
    """The prompt maker of the task ``chat``; ``options`` are the engine's for conversations."""
    if isinstance(prompt.messages, str):
        return ConversationPrompts(prompt.messages, options)
    if prompt.messages is not None:
        return ChatPrompts(prompt.messages, options)
    return SystemUserPrompts(prompt, options)
