"""Random JSON schemas of moderate size, the same for the same seed.

hypothesis-jsonschema draws the keywords, from schemas that describe them; how schemas nest is laid down here, because
drawing that from one schema of schemas takes it seconds for each.
"""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema
from jsonschema import Draft202012Validator

Schema = dict[str, Any]
Schemas = st.SearchStrategy[Schema]

PATTERNS = ["^[a-z]{1,8}$", "^[A-Z][0-9]{2}$", "^(ja|nein)$", "^\\d{3}-\\d{4}$", "^[a-z]{2,9}@[a-z]{2,9}\\.(com|org)$"]
FORMATS = ["date", "date-time", "time", "uuid", "ipv4", "email"]
NAMES = ["name", "age", "title", "a b", "größe", "tags", 'quote"d', "id"]
VALUES = ["red", "green", "Zürich", "東京", 'a"b', "x\\y", "", None, True, False, 3, -1.5, [], {"k": [1]}]


class _Enough(Exception):  # noqa: N818
    """Hypothesis stops at an exception alone."""


def random_schemas(count: int, number: int = 0, depth: int = 2) -> list[Schema]:
    """``count`` different schemas drawn with the seed ``number``; they nest at most ``depth`` deep."""
    found: list[Schema] = []

    @seed(number)
    @settings(
        max_examples=8 * count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(_schemas(depth))
    def draw(schema: Schema) -> None:
        if schema not in found:
            Draft202012Validator.check_schema(schema)
            found.append(schema)
        if len(found) == count:
            raise _Enough

    with contextlib.suppress(_Enough):
        draw()
    del found[count:]
    assert len(found) == count, f"only {len(found)} different schemas in {8 * count} draws"
    return found


def _schemas(depth: int) -> Schemas:
    if depth == 0:
        return _leaves()
    inner = _schemas(depth - 1)
    objects = _objects(inner)
    return st.one_of(_leaves(), objects, objects, objects, objects, _arrays(inner), _unions(inner))


def _keywords(required: list[str], **properties: Any) -> Schemas:
    """Mappings of these keywords; ``properties`` describes their values."""
    described = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    drawn: Schemas = from_schema(described)
    return drawn


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _leaves() -> Schemas:
    value = {"enum": VALUES}
    several = {"type": "array", "items": value, "minItems": 1, "maxItems": 4, "uniqueItems": True}
    integers = {"minimum": _whole(-50, 20), "exclusiveMaximum": _whole(21, 5000), "multipleOf": _whole(1, 10)}
    numbers = {"minimum": {"enum": [-3.25, 0, 0.5]}, "maximum": {"enum": [1, 7.75, 1000]}}
    return st.one_of(
        _typed("string", _keywords(["maxLength"], minLength=_whole(0, 3), maxLength=_whole(3, 12))),
        _typed("string", _keywords(["pattern"], pattern={"enum": PATTERNS})),
        _typed("string", _keywords(["format"], format={"enum": FORMATS})),
        _typed("integer", _keywords(["minimum", "exclusiveMaximum"], **integers)),
        _typed("number", _keywords(["minimum", "maximum"], **numbers)),
        _keywords(["type"], type={"enum": ["boolean", "null"]}),
        st.one_of(_keywords(["const"], const=value), _keywords(["enum"], enum=several)),
    )


def _typed(name: str, schemas: Schemas) -> Schemas:
    return schemas.map(lambda schema: {"type": name, **schema})


def _arrays(inner: Schemas) -> Schemas:
    sizes = _keywords(["maxItems"], minItems=_whole(0, 2), maxItems=_whole(2, 4), uniqueItems={"enum": [False, True]})
    plain = st.builds(lambda size, items: {**size, "items": items}, sizes, inner)
    fewest = _keywords([], minItems=_whole(0, 1))
    several = st.lists(inner, min_size=1, max_size=3)
    tuples = st.builds(lambda size, items: {**size, "prefixItems": items, "items": False}, fewest, several)
    return _typed("array", st.one_of(plain, tuples))


def _objects(inner: Schemas) -> Schemas:
    named = st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=4)
    rare = st.fixed_dictionaries(
        {},
        optional={
            "maxProperties": st.integers(4, 6),
            "patternProperties": inner.map(lambda schema: {"^x-": schema}),
        },
    )
    others = st.one_of(st.just(False), st.just(False), st.just(False), inner)
    needed = st.sets(st.sampled_from(NAMES), max_size=3)
    joined = st.builds(_object, named, needed, others, st.one_of(st.just({}), st.just({}), rare))
    return _typed("object", joined)


def _object(properties: Schema, needed: set[str], others: Schema | bool, rare: Schema) -> Schema:
    """Required names are among the properties, for a closed object with others could not be satisfied."""
    required = [name for name in NAMES if name in needed and name in properties]
    return {"properties": properties, "required": required, "additionalProperties": others, **rare}


def _unions(inner: Schemas) -> Schemas:
    return st.builds(
        lambda word, schemas: {word: schemas},
        st.sampled_from(["anyOf", "anyOf", "oneOf", "allOf"]),
        st.lists(inner, min_size=1, max_size=3),
    )
