"""Answers as messages: which parser is meant, and what becomes of a whole answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.chat import ChatOptions, RenderedChat
from engine.text.reply import ReplyFormat, parse_reply, reply_format
from engine.text.template import ChatTemplateError

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"}},
        },
    },
}
QWEN = "{{ messages }}{{ tools }}<think></think>\n<tool_call>"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
ANSWER = f"<think>\nhm\n</think>\n\nLet me look.\n{CALL}"


def chosen(reasoning: str | None, tools: str | None, template: str = QWEN, **attributes: Any) -> ReplyFormat:
    hf = SimpleNamespace(chat_template=template, **attributes)
    return reply_format(hf, reasoning, tools, ChatOptions(tools=[WEATHER]), RenderedChat("prompt", ""))


@pytest.mark.parametrize(
    ("template", "reasoning", "tools"),
    [
        (QWEN, "think", "hermes"),
        ("<tool_call>\n<function=name>", None, "qwen3_coder"),
        ("[TOOL_CALLS] [THINK]", "mistral", "mistral"),
        ("<|tool_call|> Here is my thought process:", "granite", "granite"),
        ("<|python_start|> <|python_tag|>", None, "pythonic"),
        ("Environment: ipython <|python_tag|>", None, "llama3_json"),
    ],
)
def test_auto_reads_the_template(template: str, reasoning: str | None, tools: str) -> None:
    found = chosen("auto", "auto", template)
    assert (found.reasoning, found.tools) == (reasoning, tools)


def test_names_aliases_and_mistakes() -> None:
    found = chosen("deepseek_r1", "llama4_pythonic")
    assert (found.reasoning, found.tools) == ("think", "pythonic")
    assert (chosen(None, "hermes").reasoning, chosen("think", None).tools) == (None, None)
    with pytest.raises(ChatTemplateError, match=r"reasoning_parser='thnk'.*did you mean 'think'"):
        chosen("thnk", None)
    with pytest.raises(ChatTemplateError, match=r"tool_parser='herms'.*did you mean 'hermes'"):
        chosen(None, "herms")
    with pytest.raises(ChatTemplateError, match="tool_parser='auto' finds no"):
        chosen(None, "auto", "{{ messages }}")
    with pytest.raises(ChatTemplateError, match="declares no response_template"):
        chosen(None, "response_template")


def test_whole_answer() -> None:
    message = parse_reply(ANSWER, chosen("auto", "auto"))
    assert (message.content, message.reasoning, message.errors) == ("Let me look.", "hm", ())
    (call,) = message.tool_calls
    assert (call.name, call.arguments) == ("weather", {"city": "Bonn"})
    assert parse_reply(ANSWER, chosen("auto", "auto")) == message, "ids too"
    assert len(call.id) == 9
    assert call.id.isalnum()
    again = message.to_openai()
    assert again["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Bonn"}'}
    assert (again["role"], again["reasoning"]) == ("assistant", "hm")


def test_ids_differ_between_calls_and_prompts() -> None:
    call = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    one = parse_reply(call * 2, ReplyFormat(tools="hermes", seed="a"))
    other = parse_reply(call * 2, ReplyFormat(tools="hermes", seed="b"))
    assert len({c.id for c in (*one.tool_calls, *other.tool_calls)}) == 4


def test_prompt_that_opens_the_reasoning() -> None:
    opened = ReplyFormat(reasoning="think", beginning="<|im_start|>assistant\n<think>\n")
    assert parse_reply("still thinking", opened).reasoning == "still thinking"
    closed = ReplyFormat(reasoning="think", beginning="<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert parse_reply("an answer", closed).content == "an answer"


def test_values_get_their_schemas_types_and_unknown_tools_show() -> None:
    body = "<parameter=city>\n12\n</parameter><parameter=days>\n3\n</parameter><parameter=exact>\nTrue\n</parameter>"
    text = f"<tool_call><function=weather>{body}</function></tool_call>"
    (call,) = parse_reply(text, chosen(None, "qwen3_coder")).tool_calls
    assert call.arguments == {"city": "12", "days": 3, "exact": True}
    other = parse_reply('<tool_call>{"name": "sing"}</tool_call>', chosen(None, "hermes"))
    assert other.errors == ("tool call 0 asks for 'sing'; the tools are weather",)
    assert other.tool_calls[0].name == "sing"


DECLARED = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"content": "text"},
    },
}


def test_the_tokenizers_own_description_comes_first() -> None:
    found = chosen("auto", "auto", "{{ messages }}", response_template=DECLARED)
    message = parse_reply(ANSWER, found)
    assert (message.content, message.reasoning) == ("Let me look.", "hm")
    assert [(c.name, c.arguments) for c in message.tool_calls] == [("weather", {"city": "Bonn"})]
    broken = parse_reply("<tool_call>{no", found)
    assert broken.content == "<tool_call>{no"
    assert "response_template" in broken.errors[0]
    assert chosen("think", None, response_template=DECLARED).reasoning == "think", "a name wins"


@given(st.text(max_size=60), st.sampled_from(["think", "granite", None]), st.sampled_from(["hermes", "pythonic", None]))
def test_any_text_parses(text: str, reasoning: str | None, tools: str | None) -> None:
    message = parse_reply(text, ReplyFormat(reasoning=reasoning, tools=tools))
    if not message.tool_calls and message.reasoning is None and text:
        assert message.content == text
