"""docs/reference.md is what the docstrings say, every public method has an example, and the examples are true."""

from __future__ import annotations

import asyncio
import doctest
import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import LLM, AsyncLLM, SamplingParams

ROOT = Path(__file__).parent.parent.parent
CLASSES = (LLM, AsyncLLM)
FINDER = doctest.DocTestFinder(exclude_empty=False)


def methods(cls: type) -> list[str]:
    """Public methods and properties, inherited ones too."""
    return sorted(name for name in dir(cls) if not name.startswith("_"))


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    """What the page says that its examples have."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known: dict[str, Any] = {name: getattr(engine, name) for name in engine.__all__}
    known |= {"asyncio": asyncio, "itertools": itertools, "page": module.page}
    known["greedy"] = SamplingParams(temperature=0, max_tokens=8)
    with (
        LLM("smollm2-135m-instruct", dtype="float32") as known["llm"],
        LLM("all-minilm-l6-v2") as known["embedder"],
    ):
        known["engine"] = AsyncLLM("smollm2-135m-instruct", dtype="float32")
        yield known
        known["engine"].close()


def test_the_page_is_what_the_docstrings_say(names: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == names["page"](), "run python docs/generate.py"


@pytest.mark.parametrize(
    ("cls", "method"),
    [
        *((cls, name) for cls in CLASSES for name in methods(cls)),
        *((SamplingParams, name) for name in ("clone", "from_optional")),
    ],
)
def test_example(cls: type, method: str, names: dict[str, Any]) -> None:
    (example,) = FINDER.find(getattr(cls, method), name=f"{cls.__name__}.{method}", globs=dict(names))[:1]
    assert example.examples, f"{cls.__name__}.{method} has no example"
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    result = runner.run(example, out=told.append)
    assert result.failed == 0, "".join(told)
