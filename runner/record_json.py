"""Records as JSON texts, as the journal holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_json(record: Mapping[str, Any]) -> str:
    """One line of JSON. Values that JSON lacks (dates, bytes...) become text; lone surrogates are escaped."""
    text = json.dumps(record, ensure_ascii=False, default=str, separators=(", ", ": "))
    return text if text.isascii() or writable(text) == text else json.dumps(record, default=str)


def from_json(text: str) -> dict[str, Any]:
    """A record whose texts can all be written as UTF-8: lone surrogates are spelt out, as in :func:`writable`."""
    record: dict[str, Any] = json.loads(text)
    return _spelt(record) if "\\ud" in text else record  # only an escape can hold one


def writable(text: str) -> str:
    """The text with each lone surrogate (half of a UTF-16 pair) spelt out, such as ``\\ud800`` in six characters."""
    return text.encode("utf-8", "backslashreplace").decode()


def _spelt(value: Any) -> Any:
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, dict):
        return {_spelt(name): _spelt(inner) for name, inner in value.items()}
    return [_spelt(inner) for inner in value] if isinstance(value, list) else value
