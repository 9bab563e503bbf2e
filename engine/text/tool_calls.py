"""Tool calls in an answer's text: one function for each way in which models write them.

Each takes a text and gives what it found, in order. A call that cannot be read stays in the content as it stands, with
an error beside it; a text without marks is content, unchanged. Line breaks next to a mark belong to the mark.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_LENIENT = json.JSONDecoder(strict=False)  # models write line breaks within strings
_CALL_LIST = re.compile(r"\[\s*[A-Za-z_][\w.]*\(")
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)(?:</function>\s*|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_NAMED = re.compile(r"\s*([\w.\-]+)(?:\[CALL_ID\][\w\-]*)?(?:\[ARGS\])?\s*(?={)")
_CONSTANTS = {"true": True, "false": False, "null": None}


def deepseek_mark(*words: str) -> str:
    """A mark of DeepSeek's vocabulary, which is written with full-width bars and low blocks in place of spaces."""
    return "<\uff5c" + "\u2581".join(("tool", *words)) + "\uff5c>"


_SEP = deepseek_mark("sep")
_DEEPSEEK = re.compile(rf"(?:function{_SEP}(\S+)\n```json\n(.*?)\n```|([^<\n]+){_SEP}(.*))\s*\Z", re.DOTALL)


class CallError(ValueError):
    """A call that cannot be read; the message says why."""


@dataclass
class Found:
    """What a text holds: content, calls as (name, arguments), and what is wrong with calls that cannot be read."""

    content: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, raw: str, read: Callable[[], list[tuple[str, dict[str, Any]]]]) -> None:
        """Book what ``read`` gives; where it fails, the raw text stays content."""
        try:
            self.calls += read()
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            self.content += raw
            self.errors.append(f"a tool call cannot be read: {error}")


def hermes(text: str) -> Found:
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``: Hermes, Qwen 2.5 and 3."""
    return _in_blocks(text, "<tool_call>", "</tool_call>", lambda body: _calls(_json(body)))


def qwen3_coder(text: str) -> Found:
    """``<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>``: Qwen3-Coder, Qwen 3.5."""
    return _in_blocks(text, "<tool_call>", "</tool_call>", lambda body: [_xml_call(body)])


def deepseek_v3(text: str) -> Found:
    """DeepSeek's marks, with arguments as a fenced block (V3) or bare (V3.1)."""
    bare = text.replace(deepseek_mark("calls", "begin"), "").replace(deepseek_mark("calls", "end"), "")

    def read(body: str) -> list[tuple[str, dict[str, Any]]]:
        match = _DEEPSEEK.match(body.strip())
        if match is None:
            raise CallError(f"neither name nor arguments in {body!r:.80}")
        return [(match[1] or match[3], _arguments(_json(match[2] or match[4])))]

    return _in_blocks(bare, deepseek_mark("call", "begin"), deepseek_mark("call", "end"), read)


def mistral(text: str) -> Found:
    """``[TOOL_CALLS][{"name": ..., "arguments": {...}}]``, or ``[TOOL_CALLS]NAME{...}`` for each call."""
    content, mark, rest = text.partition("[TOOL_CALLS]")
    if not mark:
        return Found(text)
    found = Found(content.rstrip("\n"))
    if rest.lstrip().startswith(("[", "{")):
        _leading_json(found, mark, rest)
        return found
    for part in rest.split(mark):
        match = _NAMED.match(part)
        if match is None:
            found.add(mark + part, _failing(f"neither name nor arguments in {part!r:.80}"))
        else:
            _leading_json(found, mark + part[: match.end()], part[match.end() :], match[1])
    return found


def granite(text: str) -> Found:
    """``<|tool_call|>[{"name": ..., "arguments": {...}}]``."""
    return _listed(text, "<|tool_call|>")


def phi4_mini_json(text: str) -> Found:
    """``functools[{"name": ..., "arguments": {...}}]``."""
    return _listed(text, "functools") if re.search(r"functools\s*\[\s*\{", text) else Found(text)


def llama3_json(text: str) -> Found:
    """A text that is nothing but ``{"name": ..., "parameters": {...}}``, several with ``;`` between them."""
    marked, mark, rest = text.partition("<|python_tag|>")
    if mark and marked.strip():
        found = llama3_json(mark + rest)
        found.content = marked + found.content
        return found
    body = (rest if mark else text).strip()
    if not (mark or (body.startswith("{") and '"name"' in body)):
        return Found(text)
    found, at = Found(), 0
    while at < len(body):
        try:
            value, end = _LENIENT.raw_decode(body, at)
            found.calls += _calls(value)
        except (ValueError, RecursionError) as error:
            found.content = text if at == 0 else body[at:]
            found.errors.append(f"a tool call cannot be read: {error}")
            break
        at = end
        while at < len(body) and body[at] in "; \n\t":
            at += 1
    return found


def pythonic(text: str) -> Found:
    """A text that is nothing but ``[name(key=value), ...]``: Llama 3.2 and 4."""
    body = text.replace("<|python_start|>", "").replace("<|python_end|>", "").strip()
    if not _CALL_LIST.match(body):
        return Found(text)
    found = Found()
    found.add(text, lambda: _python_calls(body))
    return found


PARSERS: Mapping[str, Callable[[str], Found]] = {
    parser.__name__: parser
    for parser in (hermes, qwen3_coder, deepseek_v3, mistral, granite, phi4_mini_json, llama3_json, pythonic)
}
ALIASES: Mapping[str, str] = {
    "qwen3_xml": "qwen3_coder", "deepseek_v31": "deepseek_v3", "llama4_json": "llama3_json", "qwen25": "hermes",
    "llama4_pythonic": "pythonic", "llama": "llama3_json",
}  # fmt: skip
"""vLLM's names for the same ways of writing."""


def _in_blocks(text: str, begin: str, end: str, read: Callable[[str], list[tuple[str, dict[str, Any]]]]) -> Found:
    """Calls between marks; the last one may lack its end, as a stop token or a cut output leaves it."""
    found = Found()
    for outside, body, raw in _blocks(text, begin, end):
        found.content += outside
        if raw:
            found.add(raw, lambda body=body: read(body))  # type: ignore[misc]
    return found


def _blocks(text: str, begin: str, end: str) -> Iterator[tuple[str, str, str]]:
    """Each block's text before it, its body and the block as it stands; the rest of the text as the last one."""
    at, after = 0, False
    while (start := text.find(begin, at)) >= 0:
        stop = text.find(end, start)
        close = len(text) if stop < 0 else stop + len(end)
        outside = text[at:start].rstrip("\n")
        yield (
            outside.lstrip("\n") if after else outside,
            text[start + len(begin) : max(stop, 0) or None],
            text[start:close],
        )
        at, after = close, True
    yield text[at:].lstrip("\n") if after else text[at:], "", ""


def _listed(text: str, mark: str) -> Found:
    content, found_mark, rest = text.partition(mark)
    if not found_mark:
        return Found(text)
    found = Found(content.rstrip("\n"))
    _leading_json(found, mark, rest)
    return found


def _leading_json(found: Found, mark: str, rest: str, name: str | None = None) -> None:
    """Book the JSON that begins ``rest``, as calls or as the arguments of ``name``; what follows it is content."""
    ends = [len(rest)]

    def read() -> list[tuple[str, dict[str, Any]]]:
        start = len(rest) - len(rest.lstrip())
        value, ends[0] = _LENIENT.raw_decode(rest, start)
        return _calls(value) if name is None else [(name, _arguments(value))]

    found.add(mark + rest, read)
    if not (found.errors and found.content.endswith(mark + rest)):
        found.content += rest[ends[0] :].lstrip("\n")


def _json(body: str) -> Any:
    return json.loads(body.strip(), strict=False)


def _calls(value: Any) -> list[tuple[str, dict[str, Any]]]:
    values = value if isinstance(value, list) else [value]
    return [_call(one) for one in values]


def _call(value: Any) -> tuple[str, dict[str, Any]]:
    value = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise CallError(f"no object with a name: {value!r:.80}")
    given = value.get("arguments", value.get("parameters"))
    return value["name"], _arguments({} if given is None else given)


def _arguments(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = json.loads(value, strict=False)
    if not isinstance(value, dict):
        raise CallError(f"arguments must be an object, not {value!r:.80}")
    return value


def _xml_call(body: str) -> tuple[str, dict[str, Any]]:
    function = _FUNCTION.fullmatch(body)
    if function is None:
        raise CallError(f"no <function=...> in {body!r:.80}")
    inner, at, arguments = function[2].strip(), 0, {}
    while at < len(inner):
        parameter = _PARAMETER.match(inner, at)
        if parameter is None:
            raise CallError(f"no <parameter=...> in {inner[at:]!r:.80}")
        arguments[parameter[1]] = parameter[2]
        at = parameter.end()
    return function[1], arguments


def _python_calls(body: str) -> list[tuple[str, dict[str, Any]]]:
    tree = ast.parse(body, mode="eval").body
    if not isinstance(tree, ast.List):
        raise CallError("not a list of calls")
    return [_python_call(node) for node in tree.elts]


def _python_call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise CallError(f"not a call with named arguments: {ast.unparse(node):.80}")
    return ast.unparse(node.func), {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    value = ast.literal_eval(node)
    json.dumps(value)  # what JSON cannot hold is no argument: TypeError
    return value


def _failing(message: str) -> Callable[[], list[tuple[str, dict[str, Any]]]]:
    def fail() -> list[tuple[str, dict[str, Any]]]:
        raise CallError(message)

    return fail
