"""From the parameters of structured outputs to a grammar in llguidance's own form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.params import StructuredOutputsParams
from engine.structured.patterns import lark_regex
from engine.structured.schema import prepared
from engine.structured.tags import tag_grammar
from engine.text.inputs import InputError

_APPLIES = {  # which kinds an option says something about
    "disable_any_whitespace": ("json", "json_object", "structural_tag"),
    "whitespace_pattern": ("json", "json_object", "structural_tag"),
    "disable_additional_properties": ("json", "structural_tag"),
}


def grammar_source(wanted: StructuredOutputsParams) -> str:
    """The grammar that the library compiles.

    Raises:
        InputError: a value cannot be read, or an option does not go with its kind.
    """
    import llguidance

    _check_options(wanted)
    kind, closed = wanted.kind, wanted.disable_additional_properties
    whitespace = json_options(wanted)
    matcher = llguidance.LLMatcher
    if kind in ("json", "json_object"):
        schema = {"type": "object"} if kind == "json_object" else prepared(_mapping("json", wanted.json), closed)
        return matcher.grammar_from_json_schema(json.dumps(schema), overrides=whitespace)  # type: ignore[arg-type]
    if kind == "regex":
        return matcher.grammar_from_lark(f"start: /{lark_regex(str(wanted.regex))}/")
    if kind == "choice":
        # One terminal: as alternatives of a rule, which the library makes of them, 2,000 are the most.
        return matcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {' | '.join(map(json.dumps, wanted.choice or ()))}")
    if kind == "grammar":
        return _from_ebnf(str(wanted.grammar))
    return tag_grammar(_mapping("structural_tag", wanted.structural_tag), whitespace, closed)


def json_options(wanted: StructuredOutputsParams) -> dict[str, Any]:
    """What the library is told about the whitespace in JSON."""
    if wanted.whitespace_pattern is not None:
        return {"whitespace_pattern": wanted.whitespace_pattern}
    return {"whitespace_flexible": not wanted.disable_any_whitespace}


def _check_options(wanted: StructuredOutputsParams) -> None:
    for option, kinds in _APPLIES.items():
        if getattr(wanted, option) not in (None, False) and wanted.kind not in kinds:
            raise InputError(
                f"structured_outputs.{option} says nothing about {wanted.kind}: it goes with {', '.join(kinds)}"
            )
    if wanted.disable_any_whitespace and wanted.whitespace_pattern is not None:
        raise InputError("structured_outputs: give disable_any_whitespace or whitespace_pattern, not both")


def _mapping(name: str, value: Any) -> Any:
    """A schema or tag that may be JSON text."""
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except ValueError as error:
        raise InputError(f"structured_outputs.{name} is no JSON: {error}") from None
    if not isinstance(read, Mapping):
        raise InputError(f"structured_outputs.{name} must hold a JSON object, not {value:.80}")
    return read


def _from_ebnf(text: str) -> str:
    import llguidance

    try:
        return llguidance.grammar_from("grammar", text)
    except ValueError as error:
        raise InputError(f"structured_outputs.grammar cannot be read: {error}") from None
