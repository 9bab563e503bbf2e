"""What must hold between the load and the other sections."""

from __future__ import annotations

from runner.config.load import OnlineLoad
from runner.config.schema import Config
from runner.config.sections import EmbedTask
from runner.errors import ConfigError


def check_load(config: Config) -> None:
    """Refuse limits that no request of the task could have a time for.

    Raises:
        ConfigError: the message names the limit.
    """
    load = config.load
    if isinstance(load, OnlineLoad) and isinstance(config.task, EmbedTask):
        for name in sorted(load.goodput.declared.keys() - {"e2e_ms"}):
            raise ConfigError(
                f"load.goodput.{name}={load.goodput.declared[name]:g} has no meaning for task=embed, which writes no "
                f"tokens: it takes load.goodput.e2e_ms"
            )
