"""Chat templates: their sources, and what is found out about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.text.template import ChatTemplateError, read_template, template_traits

LOOP = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
BOTH = (
    "{% for m in messages %}{% set text = m['content'] %}{% if text is string %}{{ text }}{% else %}"
    "{% for part in text %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}"
)
MACRO = (
    "{% macro show(content) %}{% for c in content | list %}{{ c.text }}{% endfor %}{% endmacro %}"
    "{% generation %}{{ show(messages[0].content) }}{% endgeneration %}"
)


@pytest.mark.parametrize(("text", "expected"), [(LOOP, "string"), (PARTS, "openai"), (BOTH, "auto"), (MACRO, "openai")])
def test_content_format(text: str, expected: str) -> None:
    assert template_traits(text).content_format == expected


def test_variables_and_fields() -> None:
    traits = template_traits(
        "{% if enable_thinking %}{{ tools }}{% endif %}{{ messages[0].tool_calls }}{% set x = 1 %}"
    )
    assert traits.variables == {"enable_thinking", "tools", "messages"}
    assert "tool_calls" in traits.fields


def test_sources(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(LOOP)
    assert read_template(str(file)) == read_template(file) == read_template(LOOP) == LOOP
    with pytest.raises(ChatTemplateError, match=r"'nowhere.jinja' is no file, and no Jinja template"):
        read_template("nowhere.jinja")
    with pytest.raises(ChatTemplateError, match="cannot be read"):
        read_template(tmp_path)
    with pytest.raises(ChatTemplateError, match="not 5"):
        read_template(5)  # type: ignore[arg-type]
    with pytest.raises(ChatTemplateError, match="no Jinja template"):
        template_traits("{% for %}")
