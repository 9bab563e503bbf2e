"""pydantic's findings as one message: full key, value, what is allowed, nearest known name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from runner.config.keys import known_keys, open_keys
from runner.errors import listing, nearest

MOST_SHOWN = 3  # wrong keys in one message
_OF_HYDRA = (
    "hydra.mode", "hydra.sweeper.params", "hydra.launcher.jobs", "hydra.launcher.fail_fast", "hydra.sweep.dir",
)  # fmt: skip
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    """One line for each wrong key; several findings about one key (the branches of a union) become one line."""
    lines: dict[str, list[str]] = {}
    for finding in error.errors():
        key, value = _locate(finding["loc"], data)
        why = _why(finding, key, value, data)
        if why not in lines.setdefault(key, []):
            lines[key].append(why)
    texts = [whys[0] if len(whys) == 1 else f"{whys[0]}, or {_allowed_alone(whys[1:])}" for whys in lines.values()]
    more = [f"(and {len(texts) - MOST_SHOWN} more)"] if len(texts) > MOST_SHOWN else []
    return "\n".join([*texts[:MOST_SHOWN], *more])


def unknown_key(key: str, value: str) -> str:
    """The message for a key that no section has."""
    if key == "recipe":
        return f"a recipe's file lacks the line '# @package _global_' at its beginning: it is read as recipe{value}"
    if key.startswith("hydra."):
        return f"unknown key {key}{value}{nearest(key, _OF_HYDRA)}\n(runner --cfg hydra shows all of them)"
    within = next((mapping for mapping in open_keys() if key.startswith(f"{mapping}.")), None)
    if within is not None:
        return f"{key}{value} lacks its plus sign: {within} takes any keys, which are added with +{key}=VALUE"
    known = known_keys()
    section = re.sub(r"\[\d+\]", "", key).rpartition(".")[0]
    while section not in known:
        section = section.rpartition(".")[0]
    every = [f"{part}.{name}" if part else name for part, names in known.items() for name in names]
    if key in every:
        return (
            f"{key}{value} has no meaning for the kind of {section} that is chosen: it belongs to another one\n"
            f"(a kind comes with its own keys: {section}=KIND)"
        )
    where = f"the keys of {section}" if section else "the keys at the top"
    listed = re.sub(r"\[\d+\]", "", key)  # metrics[0].ref is looked for as metrics.ref
    near = nearest(listed, every)
    if listed != key:
        near = near.replace(f"'{section}.", f"'{key.rpartition('.')[0]}.")
    return f"unknown key {key}{value}{near}\n{where}: {listing(known[section])}"


def _foreign_key(key: str, value: Any, data: Mapping[str, Any]) -> str | None:
    """The message for a key that another kind of the same section has."""
    section, _, name = key.rpartition(".")
    node: Any = data
    for part in re.findall(r"[^.\[\]]+", section):
        node = node[int(part)] if isinstance(node, (list, tuple)) else node.get(part, {})
    kinds = known_keys().get(re.sub(r"\[\d+\]", "", section), [])
    if not isinstance(node, Mapping) or "kind" not in node or name not in kinds:
        return None
    kind = node["kind"]
    message = f"{key}={value!r} has no meaning for {section}.kind={kind!r}: it belongs to another kind"
    if section.endswith("]"):
        return message
    return (
        f"{message}\n(a recipe's key is left out with ~{key}; the kind and its own keys come with {section}={kind}, "
        f"not with {section}.kind={kind})"
    )


def _locate(location: Sequence[int | str], data: Any) -> tuple[str, Any]:
    """Dotted key and value at a pydantic location, whose names of union branches are left out; the value
    is ``None`` for a key that is not in the data."""
    key, node = "", data
    for part in location:
        if isinstance(node, Mapping):
            if part not in node and part == node.get("kind"):
                continue
            key = f"{key}.{part}" if key else str(part)
            if part not in node:
                return key, None
            node = node[part]
        elif isinstance(node, (list, tuple)) and isinstance(part, int) and part < len(node):
            key, node = f"{key}[{part}]", node[part]
        else:
            break  # the branch of a union of plain types
    return key, node


def _why(finding: Any, key: str, value: Any, data: Mapping[str, Any]) -> str:
    kind, message = finding["type"], finding["msg"]
    context = finding.get("ctx") or {}
    if kind in _UNKNOWN:
        return _foreign_key(key, value, data) or unknown_key(key, f"={value!r}")
    if kind.startswith("missing"):
        return f"{key} is required and not set" + ("" if "[" in key else f"; set it with {key}=VALUE")
    if kind == "union_tag_invalid":
        allowed = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        tag = context["tag"]
        return f"{key}.kind={tag!r} is not allowed: it must be one of {listing(allowed)}{nearest(str(tag), allowed)}"
    if kind == "union_tag_not_found":
        return f"{key}.kind is required and not set"
    if kind == "value_error":
        return _value_error(key, message.removeprefix("Value error, "), value, context.get("error"))
    suggestion = nearest(
        str(value), str(context.get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
    )
    return f"{key}={value!r} is not allowed: it must be {_allowed(message)}{suggestion}"


def _value_error(key: str, message: str, value: Any, error: object) -> str:
    """A check of several fields names its fields itself; it lacks only the section."""
    return f"{key}.{message}" if isinstance(value, Mapping) else f"{key}={value!r} is not allowed: {message}"


def _allowed(message: str) -> str:
    text = message.removeprefix("Input should be ").replace("String should match pattern", "text that matches")
    text = text.replace("String should have", "text of")
    text = text.replace("an instance of Sequence", "a list").replace("a valid tuple", "a list")
    text = re.sub("a valid dictionary( or object to extract fields from)?", "a mapping", text)
    text = text.replace("a valid string", "text")
    return text.split(", unable to")[0].split(", got ")[0]


def _allowed_alone(whys: Sequence[str]) -> str:
    return ", or ".join(why.rpartition("it must be ")[2] for why in whys)
