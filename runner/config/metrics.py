"""The sections under ``metrics``: how outputs are judged once the run is over."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from runner.config.sections import Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")]
Column = Annotated[str, Field(min_length=1)]


class QualitySection(Section):
    """A metric of the outputs' text. ``name`` goes before its figures' names, where a kind is there twice."""

    name: Name | None = None

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of what it measures, without ``name``."""
        raise NotImplementedError

    @property
    def names(self) -> tuple[str, ...]:
        """The flat names in metrics.json."""
        return tuple(f"{self.name}/{figure}" if self.name else figure for figure in self.figures)


class ExactMatch(QualitySection):
    """Whether the output is the reference, or one of the references."""

    kind: Literal["exact_match"] = "exact_match"
    reference: Column
    strip: bool = True
    ignore_case: bool = False

    @property
    def figures(self) -> tuple[str, ...]:
        return ("exact_match",)


class RegexMatch(QualitySection):
    """Whether the pattern is found in the output; with a reference, whether what its last match captured is the
    reference."""

    kind: Literal["regex_match"] = "regex_match"
    pattern: str
    reference: Column | None = None
    ignore_case: bool = False

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"it must be a regular expression of Python's: {error}") from None
        return pattern

    @property
    def figures(self) -> tuple[str, ...]:
        return ("regex_match",)


class Rouge(QualitySection):
    """ROUGE F-measures of the package rouge-score; ``use_stemmer`` is Porter's, for English."""

    kind: Literal["rouge"] = "rouge"
    reference: Column
    types: tuple[Literal["rouge1", "rouge2", "rougeL", "rougeLsum"], ...] = ("rouge1", "rouge2", "rougeL")
    use_stemmer: bool = False

    @property
    def figures(self) -> tuple[str, ...]:
        return self.types


class Bleu(QualitySection):
    """BLEU of the package sacrebleu, 0 to 100. Only tokenizers that need no download."""

    kind: Literal["bleu"] = "bleu"
    reference: Column
    lowercase: bool = False
    tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a"

    @property
    def figures(self) -> tuple[str, ...]:
        return ("bleu",)


class Chrf(QualitySection):
    """chrF of the package sacrebleu, 0 to 100; ``word_order: 2`` is chrF++."""

    kind: Literal["chrf"] = "chrf"
    reference: Column
    lowercase: bool = False
    word_order: Annotated[int, Field(ge=0, le=4)] = 0

    @property
    def figures(self) -> tuple[str, ...]:
        return ("chrf",)


class JsonValid(QualitySection):
    """Whether the output is a JSON document, and valid under ``json_schema`` if there is one."""

    kind: Literal["json_valid"] = "json_valid"
    json_schema: dict[str, Any] | None = None

    def fault(self) -> str | None:
        """What is wrong with the schema, ``None`` if nothing is."""
        if self.json_schema is None:
            return None
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for

        try:
            kind = validator_for(self.json_schema)
            kind.check_schema(self.json_schema, format_checker=kind.FORMAT_CHECKER)  # its patterns as well
        except SchemaError as error:
            return str(error.message)
        reference = _unresolved(self.json_schema)
        return None if reference is None else f"its $ref {reference!r} leads nowhere (nothing is fetched)"

    @property
    def figures(self) -> tuple[str, ...]:
        return ("json_valid",)


class Length(QualitySection):
    """Characters and words of the output."""

    kind: Literal["length"] = "length"

    @property
    def figures(self) -> tuple[str, ...]:
        return ("output_characters", "output_words")


def _unresolved(schema: dict[str, Any]) -> str | None:
    """The first ``$ref`` of a schema that is not within it."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    def first(resource: Any, resolver: Any) -> str | None:
        reference = resource.contents.get("$ref") if isinstance(resource.contents, dict) else None
        try:
            if isinstance(reference, str):
                resolver.lookup(reference)
        except Unresolvable:
            return reference
        inner = (first(part, resolver.in_subresource(part)) for part in resource.subresources())
        return next((found for found in inner if found is not None), None)

    whole: Any = Resource.from_contents(schema, default_specification=DRAFT202012)
    uri = whole.id() or ""
    registry: Any = Registry().with_resource(uri, whole).crawl()
    return first(whole, registry.resolver(uri))


MetricSection = Annotated[
    ExactMatch | RegexMatch | Rouge | Bleu | Chrf | JsonValid | Length, Field(discriminator="kind")
]


def reference_of(metric: QualitySection) -> str | None:
    """The column that a metric compares with, if it needs one."""
    return getattr(metric, "reference", None)
