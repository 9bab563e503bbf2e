"""The configuration: frozen models, checked before anything is loaded. Nothing below this sees OmegaConf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from runner.config.checks import check, engine_args
from runner.config.identity import config_hash, identity
from runner.config.messages import explain
from runner.config.schema import Config
from runner.errors import ConfigError

__all__ = ["Config", "config_hash", "engine_args", "identity", "parse"]


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
