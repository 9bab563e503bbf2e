"""Messages in OpenAI's form: what a template gets, and how what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest

from engine.text.conversation import read_messages, read_tools
from engine.text.template import ChatTemplateError


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def test_content_in_each_format() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]
    assert read_messages(user(parts), "string")[0]["content"] == "a\nb\nc"
    expected = [{"type": "text", "text": text} for text in "abc"]
    assert read_messages(user(parts), "openai")[0]["content"] == expected
    assert read_messages(user(parts), "auto")[0]["content"] == expected
    assert read_messages(user("a"), "openai")[0]["content"] == expected[:1]
    assert read_messages(user("a"), "auto")[0]["content"] == "a"


def test_assistant_and_tool_messages() -> None:
    call = {"id": "x", "function": {"name": "f", "arguments": '{"a": [1, null]}'}}
    read = read_messages(
        [
            {"role": "assistant", "tool_calls": [call, {"function": {"name": "g"}}], "reasoning": "hm"},
            {"role": "tool", "tool_call_id": "x", "name": "f", "content": "7", "extra": 1},
            {"role": "assistant", "content": "b", "tool_calls": [], "reasoning_content": "ha"},
        ],
        "string",
    )
    assert [one["function"]["arguments"] for one in read[0]["tool_calls"]] == [{"a": [1, None]}, {}]
    assert (read[0]["content"], read[0]["reasoning_content"], read[0]["tool_calls"][0]["id"]) == ("", "hm", "x")
    assert read[1] == {"role": "tool", "tool_call_id": "x", "name": "f", "content": "7", "extra": 1}
    assert "tool_calls" not in read[2]
    assert read[2]["reasoning"] == "ha"


CALL = {"function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("hi", "message 1 must be a mapping"),
        ({"content": "a"}, r"message 1: role=None .* system, user, assistant or tool"),
        ({"role": "user"}, "message 1: content=None"),
        ({"role": "user", "content": 5}, "message 1: content=5 .* text or a list"),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            r"message 1: content\[0\] is of type 'image_url'.*text parts",
        ),
        ({"role": "user", "content": ["a", {"type": "text"}]}, r"message 1: content\[1\].text=None"),
        ({"role": "user", "content": [3]}, r"message 1: content\[0\]=3"),
        ({"role": "tool", "content": "a", "tool_call_id": 3}, "message 1: tool_call_id=3 .* text"),
        ({"role": "assistant", "tool_calls": "f"}, "message 1: tool_calls='f' .* list"),
        ({"role": "assistant", "tool_calls": [CALL, {}]}, r"message 1: tool_calls\[1\]=.*function"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, r"tool_calls\[0\].function.name=None"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            r"tool_calls\[0\].function.arguments='{' .* JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            r"arguments=\[1\] .* mapping",
        ),
    ],
)
def test_wrong_message_is_named_by_number_and_key(message: Any, expected: str) -> None:
    with pytest.raises(ChatTemplateError, match=expected):
        read_messages([*user("fine"), message], "string")


def test_tools() -> None:
    assert read_tools(None) is read_tools([]) is None
    tool = {"type": "function", "function": {"name": "f"}}
    assert read_tools((tool, len)) == [tool, len]
    with pytest.raises(ChatTemplateError, match=r"tools\[1\].*not 'f'"):
        read_tools([tool, "f"])
    with pytest.raises(ChatTemplateError, match="tools must be a list"):
        read_tools(tool)
