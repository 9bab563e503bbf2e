"""The section ``sweep``: what a recipe runs more than once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from runner.config.sections import Section


class SearchSection(Section):
    """A search with Optuna through the ranges of ``hydra.sweeper.params`` and of the command line.

    Args:
        objective: a metric, with ``maximize`` or ``minimize`` before it where its good direction is not meant; ``None``
            searches for nothing.
        constraints: bounds such as ``ttft_ms/p99 < 2000``, in the metric's own unit.
        trials: how many configurations are tried.
        sampler: Optuna's TPE, or random points.
        seed: of the sampler.
        at_once: trials that are asked for together; ``None`` is as many as run at once on this machine.
    """

    objective: Annotated[str, Field(min_length=1)] | None = None
    constraints: tuple[str, ...] = ()
    trials: Annotated[int, Field(ge=1)] = 20
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = 0
    at_once: Annotated[int, Field(ge=1)] | None = None


class SweepSection(Section):
    """What is run, besides the grid of ``hydra.sweeper.params`` and of the command line. Changes no single run.

    Args:
        cases: linked parameters, each a mapping of overrides; every case with every point of the grid is a variant.
        repeats: how often each variant is run, all variants once before any of them twice.
        warmup: runs of each variant before those, which count in no statistic.
        search: look for the best point instead of running all of them.
    """

    cases: tuple[dict[str, Any], ...] = ()
    repeats: Annotated[int, Field(ge=1)] = 1
    warmup: Annotated[int, Field(ge=0)] = 0
    search: SearchSection = SearchSection()

    @model_validator(mode="after")
    def _consistent(self) -> SweepSection:
        if self.search.objective is not None and self.cases:
            raise ValueError("cases have no meaning with sweep.search: name ranges in hydra.sweeper.params")
        if any(not case for case in self.cases):
            raise ValueError("cases holds an empty case: each must set at least one key")
        return self

    @property
    def asked(self) -> bool:
        """Whether this alone makes a sweep of a recipe."""
        return bool(self.cases) or self.repeats > 1 or self.warmup > 0 or self.search.objective is not None
