"""Prepares JSON schemas for the grammar library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Schema = dict[str, Any]

# Keywords of JSON Schema (draft 2020-12 and before) whose values are schemas, lists of schemas or mappings to schemas.
_ONE = (
    "additionalProperties", "items", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPPINGS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def prepared(schema: Any, closed: bool) -> Any:
    """The schema without keywords that say nothing but that the library refuses.

    Args:
        schema: a JSON schema.
        closed: objects have no properties but those that their schema names.
    """

    def prepare(one: Schema) -> Schema:
        if one.get("uniqueItems") is False:
            one = {key: value for key, value in one.items() if key != "uniqueItems"}
        if closed and "additionalProperties" not in one and ("properties" in one or "patternProperties" in one):
            one = {**one, "additionalProperties": False}
        return one

    return _walk(schema, prepare)


def _walk(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """A schema with every schema in it changed; what is no schema (``const``, ``enum``, ``default``) is left alone."""
    if not isinstance(schema, Mapping):
        return schema
    walked = dict(schema)
    for key in _ONE:
        if isinstance(walked.get(key), Mapping):
            walked[key] = _walk(walked[key], change)
    for key in _LISTS:
        if isinstance(walked.get(key), list):
            walked[key] = [_walk(one, change) for one in walked[key]]
    for key in _MAPPINGS:
        if isinstance(walked.get(key), Mapping):
            walked[key] = {name: _walk(one, change) for name, one in walked[key].items()}
    return change(walked)
