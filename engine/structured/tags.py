"""Structural tags as a Lark grammar: free text in which parts between given tags have a form.

Both forms that vLLM takes are read: ``{"structures": [{"begin", "schema", "end"}], "triggers": [...]}``, and
``{"type": "structural_tag", "format": {...}}`` with the formats of ``_FORMATS`` below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.structured.patterns import lark_regex
from engine.structured.schema import prepared
from engine.text.inputs import InputError

ANY_TEXT = r"/(.|\n)*/"


def tag_grammar(tag: Mapping[str, Any], whitespace: Mapping[str, Any], closed: bool) -> str:
    """The grammar of a structural tag.

    Args:
        tag: in one of the two forms.
        whitespace: the library's options for JSON.
        closed: objects have no properties but those that their schema names.

    Raises:
        InputError: the tag has no such form, or uses a format that is not supported.
    """
    rules = _Rules(dict(whitespace), closed)
    if not isinstance(tag, Mapping) or ("structures" not in tag and "format" not in tag):
        raise InputError("structured_outputs.structural_tag must have structures and triggers, or a format")
    form = _modern(tag) if "structures" in tag else tag["format"]
    rules.lines[0] += rules.expression(form)
    main = "%llguidance {}\n" + "\n".join(rules.lines) + "\n"
    return json.dumps({"grammars": [{"name": "main", "lark_grammar": main}, *rules.others]})


def _modern(tag: Mapping[str, Any]) -> Mapping[str, Any]:
    """The older form in terms of the newer one."""
    tags = []
    for one in _field(tag, "structures"):
        content = {"type": "json_schema", "json_schema": _field(one, "schema")}
        tags.append({"begin": _field(one, "begin"), "end": one.get("end", ""), "content": content})
    return {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}


class _Rules:
    """Collects the rules of one grammar."""

    def __init__(self, whitespace: dict[str, Any], closed: bool) -> None:
        self.lines = ["start: "]
        self.others: list[dict[str, str]] = []  # grammars that this one names
        self._whitespace = whitespace
        self._closed = closed

    def expression(self, form: Any) -> str:
        """What stands for a format on the right side of a rule."""
        kind = form.get("type") if isinstance(form, Mapping) else None
        if kind not in _FORMATS:
            allowed = ", ".join(_FORMATS)
            raise InputError(f"structured_outputs.structural_tag: format type {kind!r} is not one of {allowed}")
        return _FORMATS[kind](self, form)

    def text(self, form: Mapping[str, Any]) -> str:
        return _literal(form, "value")

    def schema(self, form: Mapping[str, Any]) -> str:
        schema = prepared(_field(form, "json_schema"), self._closed)
        options = {"x-guidance": self._whitespace}
        return "%json " + json.dumps({**schema, **options} if isinstance(schema, Mapping) else options)

    def regex(self, form: Mapping[str, Any]) -> str:
        return f"/{lark_regex(str(_field(form, 'pattern')))}/"

    def grammar(self, form: Mapping[str, Any]) -> str:
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            lark = any_to_lark(str(_field(form, "grammar")))
        except Exception as error:  # the converter raises its own kinds
            raise InputError(f"structured_outputs.structural_tag: a grammar cannot be read: {error}") from None
        name = f"grammar_{len(self.others)}"
        self.others.append({"name": name, "lark_grammar": lark})
        return f"@{name}"

    def any_text(self, form: Mapping[str, Any]) -> str:
        return ANY_TEXT

    def sequence(self, form: Mapping[str, Any]) -> str:
        return " ".join(f"({self.expression(one)})" for one in _field(form, "elements"))

    def either(self, form: Mapping[str, Any]) -> str:
        return " | ".join(f"({self.expression(one)})" for one in _field(form, "elements"))

    def tag(self, form: Mapping[str, Any], after: str = "") -> str:
        """A tag; ``after``: the part of its beginning that has been matched."""
        begin, end = _literal(form, "begin", after), _literal(form, "end")
        content = _field(form, "content")
        if isinstance(content, Mapping) and content.get("type") == "any_text":
            return f"{begin} {self._rule(f'{ANY_TEXT} {end}', lazy=bool(form['end']))}"
        return f"{begin} ({self.expression(content)}) {end}"

    def triggered(self, form: Mapping[str, Any]) -> str:
        """Free text, in which a trigger begins one of the tags that start with it."""
        triggers = _field(form, "triggers")
        bodies = []
        for one in _field(form, "tags"):
            begin = _field(one, "begin")
            trigger = next((t for t in triggers if t and str(begin).startswith(t)), None)
            if trigger is None:
                raise InputError(f"structured_outputs.structural_tag: no trigger of {triggers!r} begins tag {begin!r}")
            bodies.append((trigger, self.tag(one, trigger)))
        starts = {t: self._rule(f"{ANY_TEXT} {json.dumps(t)}", lazy=True) for t in dict.fromkeys(t for t, _ in bodies)}
        tags = " | ".join(f"{starts[trigger]} {body}" for trigger, body in bodies)
        if form.get("stop_after_first"):
            return f"({tags})" if form.get("at_least_one") else f"({tags} | {ANY_TEXT})"
        return f"({tags}){'+' if form.get('at_least_one') else '*'} {self._rule(ANY_TEXT)}"

    def _rule(self, body: str, lazy: bool = False) -> str:
        name = f"part_{len(self.lines)}"
        self.lines.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return name


_FORMATS: dict[str, Callable[[_Rules, Mapping[str, Any]], str]] = {
    "const_string": _Rules.text,
    "json_schema": _Rules.schema,
    "regex": _Rules.regex,
    "grammar": _Rules.grammar,
    "any_text": _Rules.any_text,
    "sequence": _Rules.sequence,
    "or": _Rules.either,
    "tag": _Rules.tag,
    "triggered_tags": _Rules.triggered,
}


def _field(form: Any, name: str) -> Any:
    value = form.get(name) if isinstance(form, Mapping) else None
    wanted = Sequence if name in ("elements", "tags", "triggers", "structures") else object
    if value is None or not isinstance(value, wanted) or (wanted is Sequence and (isinstance(value, str) or not value)):
        raise InputError(f"structured_outputs.structural_tag: {name} is missing or of the wrong kind in {form!r:.120}")
    return value


def _literal(form: Mapping[str, Any], name: str, after: str = "") -> str:
    """A field's text as a terminal; nothing where it is empty."""
    text = _field(form, name)
    if not isinstance(text, str):
        raise InputError(f"structured_outputs.structural_tag: {name} must be text, not {text!r}")
    return json.dumps(text[len(after) :]) if text[len(after) :] else ""
