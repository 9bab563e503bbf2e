"""What form an output must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from engine.params.checks import ParameterError, check, is_list

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


@dataclass(frozen=True)
class StructuredOutputsParams:
    """The form that an output must have: exactly one of the first six. Names follow vLLM.

    Whether a schema, pattern or grammar can be compiled shows when the request arrives: a bad one is that request's
    error.

    Args:
        json: a JSON schema as a mapping or as text, or a pydantic model.
        regex: a regular expression for the whole output.
        choice: the texts of which the output is one.
        grammar: an EBNF grammar whose first rule is ``root``.
        json_object: any JSON object.
        structural_tag: text with parts of a given form between given tags, as a mapping or JSON text.
        disable_any_whitespace: JSON without whitespace between its parts.
        disable_additional_properties: objects have no properties that their schema does not name.
        whitespace_pattern: regular expression for the whitespace between parts of JSON.

    Raises:
        ParameterError: none of the six is given, more than one, or a value of the wrong kind.
    """

    json: Mapping[str, Any] | str | type | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Mapping[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise ParameterError(
                "structured_outputs",
                {name: getattr(self, name) for name in given},
                f"exactly one of {', '.join(KINDS)}",
            )
        if isinstance(self.json, type):
            schema = getattr(self.json, "model_json_schema", None)
            check(schema is not None, "json", self.json, "a JSON schema (mapping or text) or a pydantic model")
            assert schema is not None
            object.__setattr__(self, "json", schema())
        check(self.json is None or isinstance(self.json, (str, Mapping)), "json", self.json, "a JSON schema or model")
        for name in ("regex", "grammar", "whitespace_pattern"):
            value = getattr(self, name)
            check(value is None or (isinstance(value, str) and value != ""), name, value, "non-empty text")
        texts = self.choice
        check(
            texts is None or (is_list(texts) and len(texts) > 0 and all(isinstance(t, str) and t for t in texts)),
            "choice",
            texts,
            "a list of non-empty strings",
        )
        check(
            self.structural_tag is None or isinstance(self.structural_tag, (str, Mapping)),
            "structural_tag",
            self.structural_tag,
            "a mapping or JSON text",
        )
        for name in ("json_object", "disable_any_whitespace", "disable_additional_properties"):
            check(getattr(self, name) in (None, True, False), name, getattr(self, name), "True or False")

    @property
    def kind(self) -> str:
        """Which of the six is given."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))


def structured(value: StructuredOutputsParams | Mapping[str, Any] | None) -> StructuredOutputsParams | None:
    """Structured outputs from a mapping, as recipes write them.

    Raises:
        ParameterError: a key is unknown, or a value is not allowed.
    """
    if value is None or isinstance(value, StructuredOutputsParams):
        return value
    check(isinstance(value, Mapping), "structured_outputs", value, "StructuredOutputsParams or a mapping of its fields")
    names = [field.name for field in fields(StructuredOutputsParams)]
    unknown = next((key for key in value if key not in names), None)
    check(unknown is None, "structured_outputs", unknown, f"a mapping with keys of {', '.join(names)}")
    return StructuredOutputsParams(**value)
