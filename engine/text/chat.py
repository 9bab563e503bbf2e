"""Conversations to prompts, through a Jinja chat template."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.text.conversation import read_messages, read_tools
from engine.text.template import ChatTemplateError, ContentFormat, TemplateTraits, read_template, template_traits

FORMATS = ("auto", "string", "openai")
_TAIL = 64  # characters taken for the beginning of the answer where a template writes the rest of the prompt anew, too
# Variables that transformers gives every template, and those that the other options of a chat set.
_GIVEN = ("messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now", "bos_token", "eos_token")
_OPTIONS = ("chat_template", "chat_template_content_format", "add_generation_prompt", "continue_final_message", "tools")
_NOT_VARIABLES = (
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "tokenizer_kwargs",
    "sanitize_control_tokens",
    "return_assistant_tokens_mask",
)


@dataclass(frozen=True)
class ChatOptions:
    """How a conversation becomes a prompt.

    Args:
        chat_template: a Jinja template, a file with one, or the name of one that the tokenizer has; ``None``: its own.
        chat_template_content_format: give content to the template as a ``string`` or as a list of parts (``openai``);
            ``auto`` finds out which it reads.
        add_generation_prompt: end with the beginning of the assistant's turn.
        continue_final_message: leave the last message open; excludes ``add_generation_prompt``.
        tools: function descriptions.
        chat_template_kwargs: further variables of the template.

    Raises:
        ChatTemplateError: a value is not allowed, or options contradict each other.
    """

    chat_template: str | Path | None = None
    chat_template_content_format: ContentFormat = "auto"
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: Sequence[Any] | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chat_template_content_format not in FORMATS:
            raise ChatTemplateError(
                f"chat_template_content_format={self.chat_template_content_format!r} is not allowed: it must be one of "
                f"{', '.join(FORMATS)}"
            )
        for name in ("add_generation_prompt", "continue_final_message"):
            if not isinstance(getattr(self, name), bool):
                raise ChatTemplateError(f"{name}={getattr(self, name)!r} is not allowed: it must be True or False")
        if self.add_generation_prompt and self.continue_final_message:
            raise ChatTemplateError("add_generation_prompt and continue_final_message exclude each other: set one")
        if not isinstance(self.chat_template_kwargs, Mapping):
            raise ChatTemplateError(f"chat_template_kwargs must be a mapping, not {self.chat_template_kwargs!r:.80}")
        for name in self.chat_template_kwargs:
            if name in _OPTIONS:
                raise ChatTemplateError(f"chat_template_kwargs holds {name!r}, which is an option of its own")
            if name in _NOT_VARIABLES or name == "messages":
                raise ChatTemplateError(f"chat_template_kwargs holds {name!r}, which is no variable of a template")


@dataclass(frozen=True)
class RenderedChat:
    """A prompt's text, and the end of it that begins the assistant's answer: a template may open its reasoning."""

    text: str
    beginning: str = ""


def render_chat(hf: Any, messages: Sequence[Any], options: ChatOptions, beginning: bool = False) -> RenderedChat:
    """The prompt of a conversation, by the options' template or by that of the transformers tokenizer ``hf``.

    Args:
        hf: the tokenizer.
        messages: the conversation.
        options: how it is rendered.
        beginning: find out where the answer begins, too, which takes a second rendering.

    Raises:
        ChatTemplateError: there is no template, a message is wrong, the template refuses the conversation, or does not
            read something that is given.
    """
    tools = read_tools(options.tools)
    template = _template(hf, options.chat_template, tools)
    traits = template_traits(template)
    asked = options.chat_template_content_format
    read = read_messages(messages, traits.content_format if asked == "auto" else asked)
    _check_read(traits, read, tools, options.chat_template_kwargs)

    def render(begin: bool) -> str:
        try:
            text: str = hf.apply_chat_template(
                read,
                tools=tools,
                chat_template=template,
                add_generation_prompt=begin,
                continue_final_message=options.continue_final_message,
                tokenize=False,
                **options.chat_template_kwargs,
            )
        except Exception as error:  # a template may raise anything on odd values: one conversation's matter
            raise ChatTemplateError(f"the chat template refuses the conversation: {error}") from None
        return text

    text = render(options.add_generation_prompt)
    if not beginning:
        return RenderedChat(text)
    if options.continue_final_message:
        last = read[-1]["content"]
        return RenderedChat(text, last if isinstance(last, str) else "".join(part["text"] for part in last))
    if not options.add_generation_prompt:
        return RenderedChat(text)
    before = render(False)
    return RenderedChat(text, text[len(before) :] if text.startswith(before) else text[-_TAIL:])


def _template(hf: Any, given: str | Path | None, tools: Sequence[Any] | None) -> str:
    known = hf.chat_template
    if given is not None and not (isinstance(given, str) and isinstance(known, dict) and given in known):
        return read_template(given)
    if known is None:
        raise ChatTemplateError(
            "the model's tokenizer has no chat template: pass chat_template (a Jinja template or a file with one)"
        )
    try:
        chosen: str = hf.get_chat_template(given, tools)
    except ValueError as error:
        raise ChatTemplateError(f"no chat template: {error}") from None
    return chosen


def _check_read(
    traits: TemplateTraits, messages: Sequence[Mapping[str, Any]], tools: Any, variables: Mapping[str, Any]
) -> None:
    """Refuse what the template would silently leave out."""
    if tools and "tools" not in traits.variables:
        raise ChatTemplateError("the chat template does not read tools: pass a chat_template that does, or leave them")
    calling = next((number for number, message in enumerate(messages) if "tool_calls" in message), None)
    if calling is not None and "tool_calls" not in traits.fields:
        raise ChatTemplateError(f"message {calling} has tool_calls, which the chat template does not read")
    known = sorted(traits.variables.difference(_GIVEN))
    for name in variables:
        if name not in traits.variables:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it reads {', '.join(known) or 'none'}"
            raise ChatTemplateError(f"the chat template does not read {name!r} (chat_template_kwargs); {hint}")
