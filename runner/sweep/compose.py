"""From overrides to checked configurations, through Hydra. Below this nothing of a sweep sees OmegaConf."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from runner.composition import COMPOSITION_ERRORS, explain, plain_data
from runner.config import config_hash, identity, parse, parse_part
from runner.config.sweep import SweepSection
from runner.dataset import open_dataset
from runner.errors import ConfigError
from runner.sweep.plan import Variant


@dataclass(frozen=True)
class Prepared:
    """A variant's configuration: ``error`` says what is wrong with it, and then there is no identity."""

    variant: Variant
    name: str | None = None
    resolved: dict[str, Any] = field(default_factory=dict)
    identity: str | None = None
    wants_gpu: bool = False
    error: str | None = None


@dataclass
class Composer:
    """Composes the variants of one sweep over its base configuration."""

    loader: ConfigLoader
    base: DictConfig
    _fingerprints: dict[str, str] = field(default_factory=dict)

    def section(self) -> SweepSection:
        """The sweep's own section.

        Raises:
            ConfigError: one of its values is wrong.
        """
        return parse_part("sweep", SweepSection, self.plain("sweep"))

    def plain(self, key: str) -> Any:
        """A part of the base configuration as plain data; ``None`` where it is not set."""
        try:
            node = OmegaConf.select(self.base, key)
            return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error)) from None

    def prepare(self, variant: Variant) -> Prepared:
        """Compose and check one variant. A wrong one is no exception: the others may be right."""
        try:
            return self._prepare(variant)
        except ConfigError as error:
            return Prepared(variant, error=str(error))
        except COMPOSITION_ERRORS as error:
            return Prepared(variant, error=explain(error))

    def _prepare(self, variant: Variant) -> Prepared:
        composed = self.loader.load_sweep_config(self.base, list(variant.overrides))
        self._refuse_nested(composed)
        without_hydra = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        resolved = plain_data(without_hydra, variant.overrides) | {"resume": None}
        config = parse(resolved)
        what = identity(config, self._fingerprint(config.dataset))
        device = getattr(config.engine, "device", "auto")
        wants_gpu = config.engine.kind != "null_engine" and str(device) != "cpu"
        return Prepared(variant, config.name, resolved, config_hash(what), wants_gpu)

    def _fingerprint(self, section: Any) -> str:
        """Of the data; computed once for all variants that read the same."""
        key = section.model_dump_json()
        if key not in self._fingerprints:
            self._fingerprints[key] = open_dataset(section).source.fingerprint()
        return self._fingerprints[key]

    def _refuse_nested(self, composed: DictConfig) -> None:
        """A recipe that is swept over must not ask for a sweep of its own, which would be dropped unnoticed."""
        for key in ("sweep", "hydra.sweeper.params"):
            own, outer = (json.dumps(_container(config, key), default=str) for config in (composed, self.base))
            if own != outer:
                raise ConfigError(f"this recipe has a sweep of its own ({key}): run it by itself")


def _container(config: DictConfig, key: str) -> Any:
    node = OmegaConf.select(config, key)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
