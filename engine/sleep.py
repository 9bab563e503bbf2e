"""Putting a model's memory away between jobs, and bringing it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch

from engine.build import Engine
from engine.device import release_memory
from engine.execute.logits_processing import Masks
from engine.execute.runner import Launched
from engine.model.encoder import Encoder
from engine.model.placement import move_tensors
from engine.params import ParameterError
from engine.pooling import PoolingCore
from engine.schedule.plan import StepPlan

TAGS = ("weights", "kv_cache")
MODES = ("abort", "wait", "keep")


class AsleepError(RuntimeError):
    """A call that needs the model while it sleeps."""


class _NoRunner:
    """Stands where the runner was."""

    def launch(self, plan: StepPlan, masks: Masks | None = None) -> Launched:
        raise AsleepError("the engine is asleep: call wake_up() first")

    def runs_ahead(self, plan: StepPlan) -> bool:
        return False

    def numerics(self) -> Mapping[str, str]:
        return {}


class Sleep:
    """Whether an engine sleeps, and what it has put away.

    The KV cache goes with the runner that owns it, and with the runner its captured graphs, which hold the addresses of
    cache and weights: waking makes a new runner, and graphs are captured anew. Level 1 keeps the weights in host memory
    (on the CPU they stay where they are), level 2 drops them and reads them again.
    """

    def __init__(self) -> None:
        self.numerics: Mapping[str, str] = {}
        self._missing: set[str] = set()
        self._weights: Any = None

    @property
    def asleep(self) -> bool:
        """Whether something is put away."""
        return bool(self._missing)

    def begin(self, engine: Engine, level: int, mode: str = "abort") -> None:
        """Put the KV cache away, and the weights on the host or altogether.

        Raises:
            ParameterError: there is no such level or mode.
        """
        if level not in (1, 2) or isinstance(level, bool):
            raise ParameterError("level", level, "1 (weights wait in host memory) or 2 (weights are read again)")
        if mode not in MODES:
            raise ParameterError("mode", mode, f"one of {', '.join(MODES)}")
        if self.asleep:
            if level == 2:
                self._weights = None  # deeper: what level 1 has kept goes, too
                release_memory(engine.device)
            return
        core: Any = engine.core
        self.numerics = core.describe()
        core.abort_all()
        core.reset_prefix_cache()
        self._weights, engine.parts.model = engine.parts.model, None
        if isinstance(core, PoolingCore):
            core.encoder = cast(Encoder, None)
        else:
            core.runner = _NoRunner()
        self._missing = set(TAGS)
        if level == 2:
            self._weights = None
        elif engine.device.type != "cpu":
            move_tensors(self._weights, torch.device("cpu"))
        release_memory(engine.device)

    def end(self, engine: Engine, tags: Iterable[str] | None = None) -> bool:
        """Bring back what the tags name (everything without them); gives whether the engine is wholly awake.

        The cache is allocated when the weights are there.

        Raises:
            ParameterError: an unknown tag.
        """
        chosen = TAGS if tags is None else (tags,) if isinstance(tags, str) else tuple(tags)
        unknown = next((tag for tag in chosen if tag not in TAGS), None)
        if unknown is not None:
            raise ParameterError("tags", list(chosen), f"of {', '.join(TAGS)}")
        if "weights" in chosen and "weights" in self._missing:
            if self._weights is None:
                self._weights = engine.parts.load()
            elif engine.device.type != "cpu":
                move_tensors(self._weights, engine.device)
        self._missing.difference_update(chosen)
        if not self.asleep and self._weights is not None:
            core: Any = engine.core
            if isinstance(core, PoolingCore):
                core.encoder = self._weights
            else:
                core.runner = engine.parts.runner(self._weights)
            engine.parts.model, self._weights = self._weights, None
        return not self.asleep
