"""A nested configuration as MLflow parameters."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST_KEY = 250  # MLflow's limit
MOST_VALUE = 500  # what the UI shows with ease and every MLflow 2 and 3 store takes
_FORBIDDEN = re.compile(r"^\.|[^\w\-. :]")


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """``{"a": {"b": 1}}`` as ``{"a.b": "1"}``; lists of plain values stay one JSON value.

    A key or value that MLflow would refuse is shortened or cleaned, and gets a hash of the original at its end, so that
    two different ones stay different.
    """
    return {_key(key): _value(value) for key, value in _leaves("", config)}


def _leaves(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, child in node.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else str(name), child)
    elif isinstance(node, list) and any(isinstance(child, Mapping) for child in node):
        for index, child in enumerate(node):
            yield from _leaves(f"{prefix}.{index}", child)
    else:
        yield prefix, node


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _key(key: str) -> str:
    clean = _FORBIDDEN.sub("_", key)
    if clean == key and len(key) <= MOST_KEY:
        return key
    return f"{clean[: MOST_KEY - 13]}.{_hash(key)}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= MOST_VALUE:
        return text
    ending = f"... ({len(text)} characters, sha256 {_hash(text)})"
    return text[: MOST_VALUE - len(ending)] + ending
