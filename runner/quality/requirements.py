"""Requirements on metrics: ``rouge1 >= 0.40``, ``ttft_ms/p99 < 2000``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.measure import definitions

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_FORM = re.compile(r"\s*(?P<name>[A-Za-z][\w/.-]*?)\s*(?P<sign>>=|<=|==|>|<)\s*(?P<limit>[-+.\deE]+)\s*")


@dataclass(frozen=True)
class Requirement:
    """A metric, what it is compared with, and how. ``text`` is what the recipe says."""

    text: str
    name: str
    sign: str
    limit: float


@dataclass(frozen=True)
class Outcome:
    """Whether a requirement is met. ``value`` is ``None`` where the metric is not given; ``why`` says the reason."""

    text: str
    name: str
    value: float | int | None
    met: bool
    why: str = ""


def parse_requirement(text: str) -> Requirement:
    """Read ``NAME OPERATOR NUMBER``.

    Raises:
        ValueError: it has another form.
    """
    found = _FORM.fullmatch(text)
    try:
        if found is not None:
            return Requirement(text.strip(), found["name"], found["sign"], float(found["limit"]))
    except ValueError:
        pass  # the number is none
    raise ValueError(f"it must be a metric, one of {', '.join(_OPERATORS)} and a number, as 'ttft_ms/p99 < 2000'")


def known_names(quality: Sequence[str]) -> list[str]:
    """What may be required: every metric that is always measured, and a recipe's own ones with their intervals."""
    return [*definitions.names(), *(name + part for name in quality for part in ("", "/low", "/high"))]


def check_requirements(requirements: Sequence[Requirement], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each requirement's outcome, as metrics.json keeps it. A metric without a value meets nothing.

    Args:
        requirements: of the recipe.
        metrics: the content of metrics.json: ``metrics`` and ``notes``.
    """
    return [asdict(_outcome(one, metrics["metrics"], metrics["notes"])) for one in requirements]


def describe(outcome: Mapping[str, Any]) -> str:
    """``rouge1 >= 0.40: it is 0.35``."""
    found = f"it is {outcome['value']:.6g}" if outcome["value"] is not None else f"it is not given ({outcome['why']})"
    return f"{outcome['text']}: {found}"


def unmet_requirements(metrics: Mapping[str, Any]) -> list[str]:
    """A line for each requirement in metrics.json's content that is not met."""
    return [f"required: {describe(one)}" for one in metrics.get("requirements", ()) if not one["met"]]


def _outcome(requirement: Requirement, flat: Mapping[str, Any], notes: Mapping[str, str]) -> Outcome:
    value = flat.get(requirement.name)
    if value is None:
        why = notes.get(requirement.name, "not measured")
        return Outcome(requirement.text, requirement.name, None, False, why)
    met = _OPERATORS[requirement.sign](value, requirement.limit)
    return Outcome(requirement.text, requirement.name, value, met)
