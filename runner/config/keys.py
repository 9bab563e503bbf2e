"""The keys that a configuration may have, for messages that suggest the nearest one."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from runner.config.schema import Config


def models_of(annotation: Any) -> list[type]:
    """The models and dataclasses in an annotation, through unions, ``Annotated`` and containers."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated, tuple, list):
        return [model for part in get_args(annotation) for model in models_of(part)]
    return []


def fields_of(model: type) -> dict[str, Any]:
    """Field name to annotation, of what may be given."""
    if issubclass(model, BaseModel):
        return {name: info.annotation for name, info in model.model_fields.items()}
    return {field.name: field.type for field in fields(model) if field.init}  # type: ignore[arg-type]


def known_keys() -> dict[str, list[str]]:
    """Section (dotted, ``""`` for the top) to the names of its keys, of all its kinds together."""
    return {section: sorted(names) for section, names in _sections().items()}


def open_keys() -> list[str]:
    """Dotted keys whose value is a mapping with any keys, such as ``model.hf_overrides``."""
    return [
        f"{section}.{name}" if section else name
        for section, names in _sections().items()
        for name, annotations in names.items()
        if any(str(annotation).startswith(("dict[", "Mapping[")) for annotation in annotations)
    ]


def _sections() -> dict[str, dict[str, list[Any]]]:
    """Every section of the configuration, dotted, to its keys with their annotations in all its kinds."""
    known: dict[str, dict[str, list[Any]]] = {}
    _collect("", [Config], known)
    return known


def _collect(section: str, models: list[type], known: dict[str, dict[str, list[Any]]]) -> None:
    """Every section below this one, with the annotations of its keys in all its kinds."""
    names: dict[str, list[Any]] = {}
    for model in models:
        for name, annotation in fields_of(model).items():
            names.setdefault(name, []).append(annotation)
    known[section] = names
    for name, kinds in names.items():
        inner = [model for annotation in kinds for model in models_of(annotation)]
        if inner:
            _collect(f"{section}.{name}" if section else name, inner, known)
