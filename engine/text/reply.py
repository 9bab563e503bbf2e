"""A chat's answer as a message: which marks its model writes, and the text taken apart by them."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.message import ChatMessage, ToolCall
from engine.text import reasoning, tool_calls
from engine.text.chat import ChatOptions, RenderedChat
from engine.text.conversation import REASONING
from engine.text.template import ChatTemplateError, read_template

DECLARED = "response_template"  # the tokenizer's own description of its answers, which transformers reads
_TOOL_MARKS = (  # what a chat template says about its model's calls; the first that is found decides
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    (tool_calls.deepseek_mark("call", "begin"), "deepseek_v3"),
    ("<|tool_call|>", "granite"),
    ("functools", "phi4_mini_json"),
    ("<|python_start|>", "pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ('"parameters": dictionary of argument name', "llama3_json"),
)


@dataclass(frozen=True)
class ReplyFormat:
    """How answers to one conversation are taken apart.

    Args:
        reasoning: a name of ``reasoning.MARKS``; ``None`` looks for none.
        tools: a name of ``tool_calls.PARSERS``; ``None`` looks for none.
        beginning: the end of the prompt that is already part of the answer.
        schemas: parameters of each tool, as JSON schemas, by name.
        seed: of the calls' ids.
        declared: the tokenizer's own response template, in place of the first two.
    """

    reasoning: str | None = None
    tools: str | None = None
    beginning: str = ""
    schemas: Mapping[str, Mapping[str, Any]] | None = None
    seed: str = ""
    declared: Any = None


def reply_format(
    hf: Any, asked_reasoning: str | None, asked_tools: str | None, options: ChatOptions, chat: RenderedChat
) -> ReplyFormat:
    """The format for a conversation; ``auto`` is what the tokenizer declares, or else what its chat template shows.

    Raises:
        ChatTemplateError: a parser is unknown, or ``auto`` finds none although tools are given.
    """
    declared = getattr(hf, DECLARED, None)
    if DECLARED in (asked_reasoning, asked_tools) and declared is None:
        raise ChatTemplateError(f"the model's tokenizer declares no {DECLARED}: name a parser")
    if declared is not None and {asked_reasoning, asked_tools} <= {"auto", DECLARED, None}:
        return ReplyFormat(
            beginning=chat.beginning, schemas=_schemas(options.tools), seed=_digest(chat.text), declared=declared
        )
    template = _template_text(hf, options)
    return ReplyFormat(
        reasoning=_reasoning_name(asked_reasoning, template),
        tools=_tools_name(asked_tools, template, options.tools),
        beginning=chat.beginning,
        schemas=_schemas(options.tools),
        seed=_digest(chat.text),
    )


def parse_reply(text: str, reply: ReplyFormat) -> ChatMessage:
    """An answer's text as a message; whatever is wrong with the text, it ends up in one of the parts."""
    if reply.declared is not None:
        return _declared(text, reply)
    thought: str | None = None
    content, errors = text, []
    calls: list[tuple[str, dict[str, Any]]] = []
    if reply.reasoning is not None:
        begin, end = marks = reasoning.MARKS[reply.reasoning]
        opened = reply.beginning.rfind(begin) > reply.beginning.rfind(end)
        thought, content = reasoning.split_reasoning(text, marks, opened)
    if reply.tools is not None:
        found = tool_calls.PARSERS[reply.tools](content)
        content, calls, errors = found.content, found.calls, found.errors
    return _message(text, reply, content, thought, calls, errors)


def _declared(text: str, reply: ReplyFormat) -> ChatMessage:
    from transformers.utils.chat_parsing import parse_response

    try:
        parsed = parse_response(text, reply.declared, prefix=reply.beginning)
        calls = [tool_calls._call(call) for call in parsed.get("tool_calls") or ()]
        content = parsed.get("content") or ""
        thought = next((parsed[key] for key in (*REASONING, "thinking") if parsed.get(key)), None)
    except Exception as error:  # a response template may raise anything on odd text
        return ChatMessage(content=text or None, errors=(f"the answer does not fit the {DECLARED}: {error}",))
    return _message(text, reply, content, thought, calls, [])


def _message(
    text: str,
    reply: ReplyFormat,
    content: str,
    thought: str | None,
    calls: Sequence[tuple[str, dict[str, Any]]],
    errors: Sequence[str],
) -> ChatMessage:
    schemas, problems, made = reply.schemas, list(errors), []
    for place, (name, arguments) in enumerate(calls):
        if schemas is not None and name not in schemas:
            problems.append(f"tool call {place} asks for {name!r}; the tools are {', '.join(schemas)}")
        if reply.tools == "qwen3_coder":  # all values are text there
            arguments = _typed(arguments, (schemas or {}).get(name, {}))
        made.append(ToolCall(_digest(f"{reply.seed}\0{text}\0{place}")[:9], name, arguments))
    blank = not content.strip() and (calls or thought)
    return ChatMessage(None if blank or not content else content, thought, tuple(made), tuple(problems))


def _typed(arguments: Mapping[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Values as their schema says; one that does not fit stays text."""
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    return {key: _cast(value, properties.get(key)) for key, value in arguments.items()}


def _cast(value: str, schema: Any) -> Any:
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    if kinds is None or "string" in ([kinds] if isinstance(kinds, str) else kinds):
        return value
    try:
        return json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return value


def _reasoning_name(asked: str | None, template: str) -> str | None:
    if asked is None:
        return None
    if asked == "auto":
        return next((name for name, marks in reasoning.MARKS.items() if any(mark in template for mark in marks)), None)
    name = reasoning.ALIASES.get(asked, asked)
    if name not in reasoning.MARKS:
        raise _unknown("reasoning_parser", asked, (*reasoning.MARKS, *reasoning.ALIASES))
    return name


def _tools_name(asked: str | None, template: str, tools: Sequence[Any] | None) -> str | None:
    if asked is None:
        return None
    if asked == "auto":
        name = next((name for mark, name in _TOOL_MARKS if mark in template), None)
        if name is None and tools:
            known = ", ".join(tool_calls.PARSERS)
            raise ChatTemplateError(
                f"tool_parser='auto' finds no way of writing calls in the chat template; name {known}"
            )
        return name
    name = tool_calls.ALIASES.get(asked, asked)
    if name not in tool_calls.PARSERS:
        raise _unknown("tool_parser", asked, (*tool_calls.PARSERS, *tool_calls.ALIASES))
    return name


def _unknown(option: str, asked: object, known: Sequence[str]) -> ChatTemplateError:
    near = difflib.get_close_matches(str(asked), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are auto, {', '.join(known)}"
    return ChatTemplateError(f"{option}={asked!r} is not known; {hint}")


def _template_text(hf: Any, options: ChatOptions) -> str:
    if options.chat_template is not None:
        return read_template(options.chat_template) if not isinstance(hf.chat_template, dict) else ""
    known = hf.chat_template
    return "\n".join(known.values()) if isinstance(known, dict) else str(known)


def _schemas(tools: Sequence[Any] | None) -> dict[str, Mapping[str, Any]] | None:
    """Each tool's parameters by its name; ``None`` where no tools are given or Python describes them."""
    found = {}
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return None
        parameters = function.get("parameters")
        found[function["name"]] = parameters if isinstance(parameters, Mapping) else {}
    return found or None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
