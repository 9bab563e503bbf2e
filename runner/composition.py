"""From Hydra's composition to plain data, and from Hydra's errors to messages. The only place below the command line
that knows OmegaConf."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner.config.messages import unknown_key
from runner.errors import ConfigError, listing, nearest
from runner.recipes import Recipe, check_recipes

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)
_HINTS = {
    "model.name": "choose one with model=NAME or model.name=NAME_OR_PATH",
    "dataset.kind": "choose one with dataset=csv, hf, inline, jsonl, openai_batch, parquet, sharegpt, synthetic or "
    "text",
}


def chosen_recipes(overrides: Sequence[str]) -> list[str]:
    """The recipes that overrides such as ``+recipe=[base,variant]`` name.

    Raises:
        ConfigError: ``recipe=`` without its plus sign.
    """
    names: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("recipe", "++recipe"):
            raise ConfigError(f"{override!r} lacks its plus sign: recipes are added with +recipe={value or 'NAME'}")
        if key == "+recipe":
            names += [name.strip(" '\"") for name in value.strip("[]").split(",")]
    return names


def check_overrides(overrides: Sequence[str], recipes: Sequence[Recipe]) -> None:
    """Find the mistakes for which Hydra's own messages are long.

    Raises:
        ConfigError: no recipe, an unknown one, or one without its plus sign.
    """
    names = chosen_recipes(overrides)
    plain = [name for name in names if re.fullmatch(r"[\w.+-]*", name)]  # not paths, globs and interpolations
    check_recipes(plain, recipes)


def plain_data(composed: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The composed configuration, resolved and complete, with the recipe's name.

    Raises:
        ConfigError: a value is missing (``???``), or an interpolation fails.
    """
    names = chosen_recipes(overrides)
    if not names and composed.get("name") is None:
        raise ConfigError("no recipe: runner +recipe=NAME (runner list shows them), or name=NAME for a run without one")
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        data = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    if missing:
        hints = [(key, _HINTS.get(key, f"set it with {key}=VALUE")) for key in missing]
        raise ConfigError("\n".join(f"{key} is required and not set (???): {hint}" for key, hint in hints))
    assert isinstance(data, dict)
    resolved = {str(key): value for key, value in data.items()}
    if resolved.get("name") is None:
        resolved["name"] = "+".join(name.rpartition("/")[2] for name in names)
    return resolved


def explain(error: Exception) -> str:
    """Hydra's, OmegaConf's and YAML's errors as one message each."""
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = error.options or []
        return f"{group}={name!r} is not allowed: it must be one of {listing(options)}{nearest(name, options)}"
    if isinstance(error, OverrideParseException):
        reason = [line for line in text.splitlines() if not line.startswith(("See https", "Error parsing"))]
        return (
            f"the override {error.override!r} cannot be read: {'; '.join(reason)}\n"
            f"overrides look like key=value; text with special characters needs quotes: 'key=\"a, b\"'"
        )
    if isinstance(error, ConfigCompositionException):
        return _composition(text, getattr(error.__cause__, "full_key", None))
    if isinstance(error, YAMLError):
        return f"a configuration file is no YAML: {' '.join(text.split())}"
    key = getattr(error, "full_key", None)
    first = text.splitlines()[0] if text else type(error).__name__
    return f"{key}: {first}" if key and str(key) not in first else first


def _composition(text: str, inner: str | None) -> str:
    """``inner``: the key within the override's value that is the unknown one, if it has a mapping for a value."""
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown is None:
        return text
    if inner and inner.startswith(f"{unknown[1]}."):
        return unknown_key(inner, "")
    value = re.search(r"use \+?[^=\s]+(=.*)", text)
    return unknown_key(unknown[1], value[1] if value else "")
