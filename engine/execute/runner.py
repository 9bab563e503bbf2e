"""What the engine asks of a model runner; there is one for the CPU and one for CUDA devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.execute.logits_processing import Masks
from engine.logprobs import RawLogprobs
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request


@dataclass(frozen=True)
class Accepted:
    """Drafts that equal the tokens drawn in their places, with log-probabilities where they are asked for."""

    tokens: Sequence[int]
    logprobs: Sequence[RawLogprobs] = ()


@dataclass(frozen=True)
class StepResult:
    """What a step produced: a token for each slice that samples, and log-probabilities where they are asked for.

    ``accepted``: for each request with drafts those that were right; its token is the one drawn behind them.
    ``device_seconds``: how long the device computed, by its own clock; ``None`` where it has none of its own.
    """

    tokens: Mapping[Request, int]
    logprobs: Mapping[Request, RawLogprobs] = field(default_factory=dict)
    prompt_logprobs: Mapping[Request, Sequence[RawLogprobs]] = field(default_factory=dict)
    device_seconds: float | None = None
    accepted: Mapping[Request, Accepted] = field(default_factory=dict)


class Launched(Protocol):
    """A step that is being computed."""

    def result(self) -> StepResult:
        """Wait for the step and give its result."""


class Runner(Protocol):
    """Owns the model and the KV cache's tensors."""

    def launch(self, plan: StepPlan, masks: Masks | None = None) -> Launched:
        """Start one step; steps run in the order of their launches. ``masks``: what grammars allow at this step."""

    def runs_ahead(self, plan: StepPlan) -> bool:
        """Whether another step may be launched before this one's tokens are known."""

    def numerics(self) -> Mapping[str, str]:
        """What the tokens depend on beside weights and requests."""
