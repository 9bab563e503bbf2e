"""Conversations to token ids, through a Jinja chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ChatTemplateError(ValueError):
    """A conversation that the chat template cannot render, or no template at all; the message says the fix."""


def apply_template(
    hf: Any, messages: Sequence[Mapping[str, Any]], chat_template: str | None, **flags: Any
) -> list[int]:
    """Token ids of ``messages`` by ``chat_template``, or by the template of the transformers tokenizer ``hf``.

    Raises:
        ChatTemplateError: there is no template, it refuses the conversation, or the flags contradict each other.
    """
    if flags.get("add_generation_prompt") and flags.get("continue_final_message"):
        raise ChatTemplateError("add_generation_prompt and continue_final_message exclude each other: set one")
    if chat_template is None and hf.chat_template is None:
        raise ChatTemplateError("the model's tokenizer has no chat template: pass chat_template (a Jinja template)")
    plain = [_with_plain_content(number, message) for number, message in enumerate(messages)]
    if not plain:
        raise ChatTemplateError("the conversation has no messages: give at least one")
    from jinja2 import TemplateError

    try:
        ids = hf.apply_chat_template(plain, chat_template=chat_template, tokenize=True, return_dict=False, **flags)
    except (TemplateError, ValueError, TypeError) as error:
        raise ChatTemplateError(f"the chat template refuses the conversation: {error}") from None
    return list(ids)


def _with_plain_content(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose content is one string: text parts are joined by line breaks, as vLLM does."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ChatTemplateError(f"message {number} must be a mapping with role and content, not {message!r:.120}")
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return dict(message)
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ChatTemplateError(f"message {number} holds a part that is not text: {part!r:.120}")
    return {**message, "content": "\n".join(part["text"] for part in content)}
