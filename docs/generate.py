"""Writes docs/reference.md from the docstrings of what ``engine`` exports: ``python docs/generate.py [--check]``."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
HEAD = """# API reference

Generated from the docstrings by `python docs/generate.py`; what things mean and why is in [api.md](api.md). The
examples are run by the tests, with

```python
import asyncio, itertools
from engine import *

llm = LLM("smollm2-135m-instruct", dtype="float32")
embedder = LLM("all-minilm-l6-v2")
engine = AsyncLLM("smollm2-135m-instruct", dtype="float32")
greedy = SamplingParams(temperature=0, max_tokens=8)
```
"""


def page() -> str:
    """The whole page as Markdown."""
    package = griffe.load("engine", search_paths=[str(ROOT)], submodules=True)
    names = [str(name) for name in package.exports or ()]
    found = list(dict.fromkeys(resolved(package[name]) for name in names))  # a class may have two names
    classes = [one for one in found if one.is_class]
    contents = "\n".join(f"- [`{one.name}`](#{one.name.lower()})" for one in classes)
    return "\n".join([HEAD, contents, "", *(line for one in classes for line in of_class(one))]).rstrip() + "\n"


def resolved(item: Any) -> Any:
    """What an imported name stands for."""
    return item.final_target if item.is_alias else item


def of_class(item: Any) -> Iterator[str]:
    """A class: what it is, its fields, its public methods."""
    yield from (f"## {item.name}", "")
    yield from of_docstring(item)
    if "dataclass" in item.labels and not documents_parameters(item):
        yield from (*table((field(one) for one in item.attributes.values() if is_field(one)), "field", "type"), "")
    for method in methods(item):
        yield from (f"### {item.name}.{method.name}", "")
        if method.is_function:
            yield from ("```python", signature(method), "```", "")
        yield from of_docstring(method)


def documents_parameters(item: Any) -> bool:
    """Whether the docstring has a section of parameters."""
    return item.docstring is not None and any(one.kind.value == "parameters" for one in sections(item))


def is_field(item: Any) -> bool:
    """Whether an attribute is a public field of a dataclass."""
    return not item.name.startswith("_") and "property" not in item.labels and item.annotation is not None


def field(item: Any) -> tuple[str, str, str]:
    """A field's name and type; its docstring is the class's."""
    return item.name, str(item.annotation).replace("|", "\\|"), ""


def methods(item: Any) -> list[Any]:
    """Public methods and properties that have a docstring, inherited ones too, in their order."""
    own = [*item.members.values(), *(one for one in item.inherited_members.values() if one.name not in item.members)]
    found = [resolved(one) for one in own]
    return [
        one
        for one in found
        if not one.name.startswith("_") and one.docstring is not None and (one.is_function or "property" in one.labels)
    ]


def signature(method: Any) -> str:
    """Name and parameters, without ``self``; one a line where they are long."""
    text = re.sub(r"\((self|cls)(, )?", "(", method.signature(return_type=True), count=1)
    if len(text) <= 100:
        return text
    tree = ast.parse(f"def {text}: ...").body[0]
    assert isinstance(tree, ast.FunctionDef)
    given = tree.args
    plain_ones = [*given.posonlyargs, *given.args]
    bare = [None] * (len(plain_ones) - len(given.defaults))
    lines = [written(*pair) for pair in zip(plain_ones, [*bare, *given.defaults], strict=True)]
    lines += [f"*{written(given.vararg, None)}"] if given.vararg else ["*"] if given.kwonlyargs else []
    lines += [written(*pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    lines += [f"**{written(given.kwarg, None)}"] if given.kwarg else []
    returns = f" -> {ast.unparse(tree.returns)}" if tree.returns else ""
    return f"{tree.name}(\n" + "".join(f"    {line},\n" for line in lines) + f"){returns}"


def written(parameter: ast.arg, value: ast.expr | None) -> str:
    """A parameter with its type and default."""
    return ast.unparse(parameter) + ("" if value is None else f" = {ast.unparse(value)}")


def of_docstring(item: Any) -> Iterator[str]:
    """The sections of a docstring."""
    if item.docstring is None:
        return
    for section in sections(item):
        yield from of_section(section)
        yield ""


def sections(item: Any) -> list[Any]:
    """The parts of a docstring in Google's form."""
    return list(item.docstring.parse("google", warnings=False))


def of_section(section: Any) -> Iterator[str]:
    """One section as Markdown lines."""
    kind, value = section.kind.value, section.value
    if kind == "text":
        yield plain(value)
    elif kind == "parameters":
        yield from table(((entry.name, default(entry), entry.description) for entry in value), "parameter", "default")
    elif kind == "attributes":
        yield from table(((entry.name, "", entry.description) for entry in value), "attribute", "")
    elif kind == "raises":
        yield (
            "Raises "
            + "; ".join(f"`{entry.annotation}`: {flat(entry.description).rstrip('.')}" for entry in value)
            + "."
        )
    elif kind in ("returns", "yields"):
        yield f"{kind.capitalize()} " + "; ".join(flat(f"{entry.name} {entry.description}") for entry in value)
    elif kind == "examples":
        for part, text in value:
            yield text if part.value == "text" else f"```python\n{text}\n```"
    else:
        raise ValueError(f"docstring section {kind!r} is not known to {__file__}")


def table(rows: Iterator[tuple[str, str, str]], *heads: str) -> Iterator[str]:
    """Names, their defaults, and what they mean."""
    yield f"| {heads[0]} | {heads[1]} | |"
    yield "|---|---|---|"
    for name, value, text in rows:
        yield f"| `{name}` | {f'`{value}`' if value else ''} | {flat(text)} |"


def default(entry: Any) -> str:
    """A parameter's default as it is written."""
    return "" if entry.value is None else str(entry.value).replace("|", "\\|")


def flat(text: str) -> str:
    """Text in one line of a table."""
    return plain(" ".join(text.split())).replace("|", "\\|")


def plain(text: str) -> str:
    """reStructuredText's code spans as Markdown's."""
    return text.replace("``", "`")


def main() -> int:
    """Write the page; with ``--check`` only say whether it is up to date."""
    text = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("docs/reference.md is up to date" if current else "docs/reference.md is old: run python docs/generate.py")
        return 0 if current else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
