"""The configuration: frozen models, checked before anything is loaded. Nothing below this sees OmegaConf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError, create_model

from runner.config.checks import check, engine_args
from runner.config.identity import config_hash, identity
from runner.config.messages import explain
from runner.config.schema import Config
from runner.errors import ConfigError

__all__ = ["Config", "config_hash", "engine_args", "identity", "parse", "parse_part"]

Model = TypeVar("Model", bound=BaseModel)


def parse(data: Mapping[str, Any]) -> Config:
    """Plain data as a checked configuration.

    Raises:
        ConfigError: one message that names every wrong key.
    """
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, data)) from None
    check(config)
    return config


def parse_part(key: str, model: type[Model], data: Any) -> Model:
    """One section as a checked configuration, where the rest is not known yet.

    Raises:
        ConfigError: one message that names every wrong key.
    """
    whole: type[BaseModel] = create_model("Part", **{key: (model, ...)})  # type: ignore[call-overload]
    try:
        return cast(Model, getattr(whole.model_validate({key: data}), key))
    except ValidationError as error:
        raise ConfigError(explain(error, {key: data})) from None
