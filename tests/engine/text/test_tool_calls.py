"""Tool calls: each way of writing them, cut and damaged ones too."""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.tool_calls import ALIASES, PARSERS, deepseek_mark

Call = tuple[str, dict[str, Any]]
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
KEYS = NAMES
PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=5,
)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(KEYS, VALUES, max_size=3)), min_size=1, max_size=3)


def dumped(call: Call, key: str = "arguments") -> str:
    return json.dumps({"name": call[0], key: call[1]}, ensure_ascii=False)


def write_deepseek(calls: list[Call]) -> str:
    begin, sep, end = deepseek_mark("call", "begin"), deepseek_mark("sep"), deepseek_mark("call", "end")
    body = "".join(f"{begin}function{sep}{name}\n```json\n{json.dumps(args)}\n```{end}" for name, args in calls)
    return f"{deepseek_mark('calls', 'begin')}{body}{deepseek_mark('calls', 'end')}"


def write_deepseek_31(calls: list[Call]) -> str:
    begin, sep, end = deepseek_mark("call", "begin"), deepseek_mark("sep"), deepseek_mark("call", "end")
    return "".join(f"{begin}{name}{sep}{json.dumps(args)}{end}" for name, args in calls)


WRITERS: dict[str, tuple[str, Callable[[list[Call]], str]]] = {
    "hermes": ("hermes", lambda calls: "\n".join(f"<tool_call>\n{dumped(c)}\n</tool_call>" for c in calls)),
    "deepseek_v3": ("deepseek_v3", write_deepseek),
    "deepseek_v31": ("deepseek_v3", write_deepseek_31),
    "mistral": ("mistral", lambda calls: "[TOOL_CALLS][" + ", ".join(map(dumped, calls)) + "]"),
    "mistral 11": ("mistral", lambda calls: "".join(f"[TOOL_CALLS]{n}[ARGS]{json.dumps(a)}" for n, a in calls)),
    "granite": ("granite", lambda calls: "<|tool_call|>[" + ", ".join(map(dumped, calls)) + "]"),
    "phi4_mini_json": ("phi4_mini_json", lambda calls: "functools[" + ", ".join(map(dumped, calls)) + "]"),
    "llama3_json": ("llama3_json", lambda calls: "; ".join(dumped(c, "parameters") for c in calls)),
    "llama3_json tag": ("llama3_json", lambda calls: "<|python_tag|>" + "; ".join(map(dumped, calls))),
    "pythonic": (
        "pythonic",
        lambda calls: "[" + ", ".join(f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in calls) + "]",
    ),
}


@pytest.mark.parametrize("way", WRITERS)
@given(calls=CALLS)
def test_written_then_parsed(way: str, calls: list[Call]) -> None:
    name, write = WRITERS[way]
    text = write(calls)
    marks = ("tool_call", "[TOOL_CALLS]", "functools", "python_", chr(0xFF5C))
    if any(mark in json.dumps(args, ensure_ascii=False) for _, args in calls for mark in marks):
        return
    found = PARSERS[name](text)
    assert (found.calls, found.content, found.errors) == (calls, "", [])


@given(name=NAMES, arguments=st.dictionaries(KEYS, PLAIN, max_size=3))
def test_qwen3_coder_written_then_parsed(name: str, arguments: dict[str, str]) -> None:
    if any("<" in value for value in arguments.values()):
        return
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    found = PARSERS["qwen3_coder"](f"Let me see.\n<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>")
    assert (found.calls, found.content, found.errors) == ([(name, arguments)], "Let me see.", [])


@pytest.mark.parametrize("name", PARSERS)
@given(text=st.text(max_size=80) | st.text(st.sampled_from("<>[]{}()\"':,;| \nabn=1"), max_size=40))
def test_text_without_marks_is_content_unchanged(name: str, text: str) -> None:
    found = PARSERS[name](text)
    if not found.calls:
        assert found.content == text


@pytest.mark.parametrize("way", WRITERS)
@given(calls=CALLS, cut=st.integers(0, 200))
def test_cut_output_keeps_whole_calls_and_shows_the_rest(way: str, calls: list[Call], cut: int) -> None:
    name, write = WRITERS[way]
    text = write(calls)[:cut]
    found = PARSERS[name](text)
    assert found.calls == calls[: len(found.calls)]
    if not found.calls:
        section = deepseek_mark("calls", "begin")
        assert found.content == text.replace(section, ""), "what is no call is content"
    if found.errors:
        assert all(error.startswith("a tool call cannot be read: ") for error in found.errors)
        assert found.content


def test_damaged_call_among_good_ones_stays_content() -> None:
    good = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    found = PARSERS["hermes"](f'One.\n{good}\n<tool_call>{{"name": }}</tool_call>\nThen.\n{good}')
    assert found.calls == [("f", {"a": 1})] * 2
    assert found.content == 'One.<tool_call>{"name": }</tool_call>Then.'
    assert len(found.errors) == 1


@pytest.mark.parametrize(
    ("name", "text", "content"),
    [
        ("llama3_json", '{"answer": 4}', '{"answer": 4}'),
        ("llama3_json", 'Say {"name": "f"} aloud', 'Say {"name": "f"} aloud'),
        ("pythonic", "[1, 2]", "[1, 2]"),
        ("pythonic", "[see](http://a.b)", "[see](http://a.b)"),
        ("phi4_mini_json", "use functools for that", "use functools for that"),
    ],
)
def test_what_only_looks_like_a_call(name: str, text: str, content: str) -> None:
    found = PARSERS[name](text)
    assert (found.content, found.calls, found.errors) == (content, [], [])


def test_arguments_of_the_wrong_kind_are_errors() -> None:
    for name, text in (
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("pythonic", "[f(1)]"),
        ("pythonic", "[f(a=g())]"),
        ("pythonic", "[f(a={1, 2})]"),
        ("pythonic", "[f(a=1), "),
        ("mistral", "[TOOL_CALLS]nothing here"),
    ):
        found = PARSERS[name](text)
        assert (found.calls, found.content) == ([], text)
        assert len(found.errors) == 1


def test_arguments_as_text_are_read() -> None:
    assert PARSERS["hermes"]('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>').calls == [
        ("f", {"a": 1})
    ]


def test_aliases_lead_to_parsers() -> None:
    assert set(ALIASES.values()) <= set(PARSERS)
