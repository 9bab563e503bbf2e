"""Counters of a running engine, read by progress displays and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    ``prompt_tokens`` counts prompt tokens of started requests, ``cached_tokens`` those of them taken from the prefix
    cache, ``computed_tokens`` every token that went through the model (recomputed ones too). ``startup`` holds seconds
    per phase (``load``, ``cache``, ``tokenizer``...), ``device`` and ``numerics`` describe what computed.
    """

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    output_tokens: int = 0
    finished_requests: int = 0
    preemptions: int = 0
    running: int = 0
    waiting: int = 0
    peak_running: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    peak_kv_blocks: int = 0
    busy_seconds: float = 0.0
    startup: Mapping[str, float] = field(default_factory=dict)
    device: Mapping[str, str] = field(default_factory=dict)
    numerics: Mapping[str, str] = field(default_factory=dict)
    timeline: tuple[TimelinePoint, ...] = ()
