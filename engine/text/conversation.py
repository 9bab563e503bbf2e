"""Conversations as callers write them (OpenAI's form), checked and made ready for a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.text.template import ChatTemplateError, ContentFormat

TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
REASONING = ("reasoning", "reasoning_content")  # two names for one thing; templates know one or the other


def read_messages(messages: Sequence[Any], content_format: ContentFormat) -> list[dict[str, Any]]:
    """Messages as a template expects them.

    Content becomes text (parts joined by line breaks) or, with ``openai``, a list of text parts; ``auto`` leaves which
    of the two it is. Arguments of tool calls become mappings, reasoning gets both of its names. Other keys pass.

    Raises:
        ChatTemplateError: a message is wrong; the error gives its number, its key, its value and what is allowed.
    """
    if not messages:
        raise ChatTemplateError("the conversation has no messages: give at least one")
    return [_message(number, message, content_format) for number, message in enumerate(messages)]


def _message(number: int, message: Any, content_format: ContentFormat) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"message {number} must be a mapping with role and content, not {message!r:.120}")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise _wrong(number, "role", role, "a name such as system, user, assistant or tool")
    if message.get("content") is None and role in ("user", "system"):
        raise _wrong(number, "content", None, "text or a list of text parts")
    result = dict(message)
    result["content"] = _content(number, message.get("content"), content_format)
    for key in ("name", "tool_call_id", *REASONING):
        if message.get(key) is not None and not isinstance(message[key], str):
            raise _wrong(number, key, message[key], "text")
    reasoning = next((message[key] for key in REASONING if message.get(key) is not None), None)
    if reasoning is not None:
        result.update(dict.fromkeys(REASONING, reasoning))
    if message.get("tool_calls") is not None:
        result["tool_calls"] = _tool_calls(number, message["tool_calls"])
        if not result["tool_calls"]:
            del result["tool_calls"]  # templates ask whether the key is there
    return result


def _content(number: int, content: Any, content_format: ContentFormat) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content_format == "openai" else content
    if content is None:
        return [] if content_format == "openai" else ""
    if not isinstance(content, (list, tuple)):
        raise _wrong(number, "content", content, "text or a list of text parts")
    texts = [_part(number, place, part) for place, part in enumerate(content)]
    if content_format == "string":
        return "\n".join(texts)
    return [{"type": "text", "text": text} for text in texts]


def _part(number: int, place: int, part: Any) -> str:
    if isinstance(part, str):
        return part
    key = f"content[{place}]"
    if not isinstance(part, Mapping):
        raise _wrong(number, key, part, "text or a mapping with type and text")
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS:
        raise ChatTemplateError(
            f"message {number}: {key} is of type {kind!r}, which is not supported: models here read text parts only"
        )
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise _wrong(number, f"{key}.text", text, "text")
    return text


def _tool_calls(number: int, calls: Any) -> list[dict[str, Any]]:
    if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
        raise _wrong(number, "tool_calls", calls, "a list of calls")
    return [_tool_call(number, place, call) for place, call in enumerate(calls)]


def _tool_call(number: int, place: int, call: Any) -> dict[str, Any]:
    key = f"tool_calls[{place}]"
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise _wrong(number, key, call, "a mapping with function: {name, arguments}")
    if not isinstance(function.get("name"), str):
        raise _wrong(number, f"{key}.function.name", function.get("name"), "text")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise _wrong(number, f"{key}.function.arguments", arguments, f"a mapping or JSON text ({error})") from None
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping):
        raise _wrong(number, f"{key}.function.arguments", arguments, "a mapping, or JSON text of one")
    return {"type": "function", **call, "function": {**function, "arguments": dict(arguments)}}


def _wrong(number: int, key: str, value: object, allowed: str) -> ChatTemplateError:
    return ChatTemplateError(f"message {number}: {key}={value!r:.120} is not allowed: it must be {allowed}")


def read_tools(tools: Any) -> list[Any] | None:
    """Tools for the template: function descriptions, or Python functions that transformers can describe.

    Raises:
        ChatTemplateError: one of them is neither; the error gives its number.
    """
    if tools is None:
        return None
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Sequence):
        raise ChatTemplateError(f"tools must be a list of function descriptions, not {tools!r:.80}")
    for number, tool in enumerate(tools):
        if not isinstance(tool, Mapping) and not callable(tool):
            raise ChatTemplateError(f"tools[{number}] must be a mapping with type and function, not {tool!r:.80}")
    return list(tools) or None
