"""Which configurations a sweep runs: the grid and the cases, as lists of overrides in Hydra's grammar."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from runner.errors import ConfigError
from runner.sweep.plan import Variant

NOT_SWEPT = ("output_root", "resume", "job", "sweep", "tracking", "hydra")
_PLAIN = re.compile(r"[A-Za-z_/.][\w/.+\-]*", re.ASCII)
_WORDS = ("null", "true", "false", "nan", "inf")


def quoted(value: Any) -> str:
    """A plain value in Hydra's grammar, read back as the same value."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)}: {quoted(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(quoted, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = str(value)
    if not isinstance(value, str) or (_PLAIN.fullmatch(text) and text.lower() not in _WORDS):
        return text
    # In Hydra's grammar a backslash escapes only a quote, or backslashes before one.
    escaped = re.sub(r'(\\*)"', lambda found: found[1] * 2 + '\\"', text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{chr(92) * trailing}"'


def _key(key: Any) -> str:
    """A mapping's key: Hydra's grammar has no quotes for one, but escapes."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", key) if isinstance(key, str) else quoted(key)


def _checked(number: int, key: str, value: Any) -> str:
    """A case's value in Hydra's grammar.

    Raises:
        ConfigError: it holds a mapping with a key that the grammar has no way to write, such as ``ü`` or a text ``5``.
    """
    text = quoted(value)
    try:
        same = OverridesParser.create().parse_override(f"key={text}").value() == value
    except HydraException:
        same = False
    if not same:
        raise ConfigError(
            f"sweep.cases: case {number}: {key}={value!r} cannot be written as an override of Hydra's, which has no "
            f"quotes for a mapping's keys: put it into a configuration group's file, and let the case choose that"
        )
    return text


def parse_overrides(words: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """Overrides with everything that Hydra knows about them, globs included."""
    found: list[Override] = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    return found


def all_overrides(
    params: Mapping[str, Any] | None, arguments: Sequence[str], loader: ConfigLoader
) -> dict[str, Override]:
    """Key to override, of the recipe's own grid and of the command line, which wins."""
    words = [f"{key}={_text(value)}" for key, value in (params or {}).items()]
    overrides = {override.get_key_element(): override for override in parse_overrides([*words, *arguments], loader)}
    for key, override in overrides.items():
        if override.is_sweep_override() and key.lstrip("+~").split(".")[0] in NOT_SWEPT:
            raise ConfigError(f"{override.input_line!r} is not allowed: {key} is one for the whole sweep")
    return overrides


def expand(overrides: Mapping[str, Override], cases: Sequence[Mapping[str, Any]]) -> list[Variant]:
    """Every case with every point of the grid.

    Raises:
        ConfigError: a case sets what the grid sets too or cannot be written, or the grid has a range without points.
    """
    swept = {key: override for key, override in overrides.items() if override.is_sweep_override()}
    fixed = [str(override.input_line) for key, override in overrides.items() if key not in swept]
    taken = {key.lstrip("+~") for key in overrides}
    for number, case in enumerate(cases, start=1):
        both = sorted(taken & {key.lstrip("+") for key in case})
        if both:
            raise ConfigError(f"sweep.cases: case {number} sets {both[0]}, which is set outside too: leave one out")
    found: list[Variant] = []
    written = [
        {key: _checked(number, key, value) for key, value in case.items()} for number, case in enumerate(cases, start=1)
    ]
    for case, point in itertools.product(written or [{}], _points(swept)):
        settings = {**case, **point}
        words = (*fixed, *(f"{key}={value}" for key, value in settings.items()))
        found.append(Variant(len(found) + 1, words, settings))
    return found


def _points(swept: Mapping[str, Override]) -> Iterator[dict[str, str]]:
    values = []
    for override in swept.values():
        if not override.is_discrete_sweep():
            raise ConfigError(f"{override.input_line!r} has no end of points: give values, or a sweep.search")
        values.append([str(value) for value in override.sweep_string_iterator()])
        if not values[-1]:
            raise ConfigError(f"{override.input_line!r} matches nothing")
    for point in itertools.product(*values):
        yield dict(zip(swept, point, strict=True))


def _text(value: Any) -> str:
    """A value of ``hydra.sweeper.params`` as Hydra reads it: text is grammar, anything else a plain value."""
    return value if isinstance(value, str) else quoted(value)
