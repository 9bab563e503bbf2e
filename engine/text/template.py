"""Chat templates: where they come from, and what they read of a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

ContentFormat = Literal["auto", "string", "openai"]
_LONGEST_PATH = 4096  # a text longer than this is no path


class ChatTemplateError(ValueError):
    """A conversation that the chat template cannot render, or no template at all; the message says the fix."""


@dataclass(frozen=True)
class TemplateTraits:
    """What a template reads.

    Args:
        variables: names that it takes from outside: ``messages``, ``tools``, ``enable_thinking``...
        fields: keys that it looks up anywhere, those of messages among them.
        content_format: ``openai`` where it walks over the parts of a message's content and never asks whether that is a
            string, ``string`` where it takes content for text, ``auto`` where it can do both.
    """

    variables: frozenset[str]
    fields: frozenset[str]
    content_format: ContentFormat


class _GenerationTag(Extension):
    """``{% generation %}`` marks the assistant's words for training; to a reader it is its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def read_template(source: str | Path) -> str:
    """A template's text: ``source`` itself, or what stands in the file that it names.

    Raises:
        ChatTemplateError: it is neither a readable file nor a Jinja template.
    """
    if isinstance(source, str) and (len(source) > _LONGEST_PATH or any(mark in source for mark in "{}\n")):
        return source
    if not isinstance(source, (str, Path)):
        raise ChatTemplateError(f"chat_template must be a Jinja template or a file's path, not {source!r:.80}")
    path = Path(source).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ChatTemplateError(f"chat_template={str(source)!r} is no file, and no Jinja template either") from None
    except (OSError, ValueError) as error:
        raise ChatTemplateError(f"chat_template={str(source)!r} cannot be read: {error}") from None


@lru_cache(maxsize=64)
def template_traits(text: str) -> TemplateTraits:
    """What a template reads, from its syntax tree.

    Raises:
        ChatTemplateError: its syntax is wrong.
    """
    environment = SandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", _GenerationTag])
    try:
        tree = environment.parse(text)
    except Exception as error:  # jinja2 lets some of Python's own errors through
        raise ChatTemplateError(f"the chat template is no Jinja template: {error}") from None
    return TemplateTraits(frozenset(find_undeclared_variables(tree)), frozenset(_fields(tree)), _content_format(tree))


def _fields(tree: nodes.Template) -> Iterator[str]:
    for attribute in tree.find_all(nodes.Getattr):
        yield attribute.attr
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str):
            yield constant.value


def _content_format(tree: nodes.Template) -> ContentFormat:
    aliases = {"content"}  # the usual name of a variable or macro argument that holds it
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, aliases):
            aliases.add(assignment.target.name)
    if not any(_is_content(loop.iter, aliases) for loop in tree.find_all(nodes.For)):
        return "string"
    asks = any(test.name == "string" and _is_content(test.node, aliases) for test in tree.find_all(nodes.Test))
    return "auto" if asks else "openai"


def _is_content(node: Any, aliases: set[str]) -> bool:
    """Whether an expression is a message's content, filtered or not."""
    while isinstance(node, nodes.Filter):
        node = node.node
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Name) and node.name in aliases
