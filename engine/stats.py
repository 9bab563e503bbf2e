"""Counters of a running engine, read by progress displays and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.costs import StepGroup


@dataclass(frozen=True)
class TimelinePoint:
    """The engine's state at one moment; ``time`` in seconds since the engine was ready, ``kv_use`` a share of 1."""

    time: float
    running: int
    waiting: int
    kv_use: float
    output_tokens: int


@dataclass(frozen=True)
class EngineStats:
    """Totals since the engine was ready.

    ``prompt_tokens`` counts prompt tokens of started completions, each of a prompt's ``n``; ``cached_tokens`` those of
    them that were not computed for it, because the prefix cache had them or another completion of the prompt computed
    them. ``computed_tokens`` counts every token that went through the model, ``recomputed_tokens`` those of them that
    preempted requests had to compute again. ``swapped_out`` and ``swapped_in`` count blocks that preempted requests
    kept in host memory, and those that came back from there. ``drafts`` counts the times that a request's next tokens
    were drafted, ``drafted_tokens`` those tokens, ``accepted_tokens`` those of them that were right. ``startup`` holds
    seconds per phase (``load``, ``cache``, ``tokenizer``...), ``device`` and ``numerics`` describe what computed.

    ``busy_seconds`` is the time in which a step was under way. ``flops`` and ``bytes`` are what the steps had to
    compute and to move at least (``engine.costs``), ``step_groups`` the same by arithmetic intensity.
    ``device_busy_seconds`` is what the device itself says that it computed, ``peak_allocated_bytes`` and
    ``peak_reserved_bytes`` the most that tensors and torch's allocator held of its memory; ``None`` where the device
    does not tell.
    """

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    drafts: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    output_tokens: int = 0
    finished_requests: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    swapped_out: int = 0
    swapped_in: int = 0
    running: int = 0
    waiting: int = 0
    peak_running: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    peak_kv_blocks: int = 0
    busy_seconds: float = 0.0
    device_busy_seconds: float | None = None
    flops: int = 0
    bytes: int = 0
    step_groups: tuple[StepGroup, ...] = ()
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    startup: Mapping[str, float] = field(default_factory=dict)
    device: Mapping[str, str] = field(default_factory=dict)
    numerics: Mapping[str, str] = field(default_factory=dict)
    timeline: tuple[TimelinePoint, ...] = ()

    @property
    def acceptance_rate(self) -> float | None:
        """The share of drafted tokens that were right; ``None`` where nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None

    @property
    def mean_accepted_length(self) -> float | None:
        """Tokens that a request gained from a step with drafts, the one drawn behind them included, on average."""
        return 1 + self.accepted_tokens / self.drafts if self.drafts else None
