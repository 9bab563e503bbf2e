"""A configuration's keys as dotted names, without those that change no record and no time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runner.config.identity import COSMETIC

MOST_VALUES = 6


def flat_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """``{"engine": {"seed": 0}}`` as ``{"engine.seed": 0}``; lists stay values, cosmetic sections are left out."""
    return dict(_leaves("", {key: value for key, value in config.items() if key not in COSMETIC}))


def _leaves(prefix: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, child in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(child, Mapping) and child:
            yield from _leaves(key, child)
        else:
            yield key, child


def listed(values: Iterable[str]) -> str:
    """The first few values, and how many more there are."""
    shown = list(values)
    more = f" and {len(shown) - MOST_VALUES} more" if len(shown) > MOST_VALUES else ""
    return ", ".join(shown[:MOST_VALUES]) + more
