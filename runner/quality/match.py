"""Metrics that need no library of their own: exact and regular matches, JSON validity, length."""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any, NoReturn

from runner.config.metrics import ExactMatch, JsonValid, RegexMatch
from runner.quality.scorer import MeanScorer, Scored, mean_of, references_of


class ExactScorer(MeanScorer):
    """1 where the output equals a reference, else 0."""

    def __init__(self, section: ExactMatch) -> None:
        self._section = section

    def score(self, output: str, reference: Any) -> Scored:
        """Compare after what the section says to strip and to fold."""
        found = {self._normal(one) for one in references_of(reference)}
        return mean_of([float(self._normal(output) in found)])

    def _normal(self, text: str) -> str:
        text = text.strip() if self._section.strip else text
        return text.casefold() if self._section.ignore_case else text


class RegexScorer(MeanScorer):
    """1 where the pattern is found, else 0; with a reference, where the last match captured it."""

    def __init__(self, section: RegexMatch) -> None:
        self._pattern = re.compile(section.pattern, re.IGNORECASE if section.ignore_case else 0)
        self._fold = section.ignore_case
        self._compares = section.reference is not None

    def score(self, output: str, reference: Any) -> Scored:
        """The first group counts, or where there is none the whole match."""
        if not self._compares:
            return mean_of([float(self._pattern.search(output) is not None)])
        allowed = {self._normal(one) for one in references_of(reference)}
        matches = deque(self._pattern.finditer(output), maxlen=1)
        last = matches[0] if matches else None
        captured = None if last is None else last[1] if self._pattern.groups else last[0]
        return mean_of([float(captured is not None and self._normal(captured) in allowed)])

    def _normal(self, text: str) -> str:
        return text.strip().casefold() if self._fold else text.strip()


class JsonScorer(MeanScorer):
    """1 where the output is JSON, and valid under the schema, else 0. Nothing is fetched for a ``$ref``."""

    def __init__(self, section: JsonValid) -> None:
        self._validator: Any = None
        if section.json_schema is not None:
            from jsonschema.validators import validator_for
            from referencing import Registry

            self._validator = validator_for(section.json_schema)(section.json_schema, registry=Registry())

    def score(self, output: str, reference: Any) -> Scored:
        """``NaN`` and ``Infinity`` are no JSON."""
        try:
            document = json.loads(output, parse_constant=_refuse)
            return mean_of([float(self._validator is None or self._validator.is_valid(document))])
        except (ValueError, RecursionError):  # no JSON, or nested deeper than anything can follow
            return mean_of([0.0])


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


class LengthScorer(MeanScorer):
    """Characters and words."""

    def score(self, output: str, reference: Any) -> Scored:
        """Words are what white space separates."""
        return mean_of([float(len(output)), float(len(output.split()))])
