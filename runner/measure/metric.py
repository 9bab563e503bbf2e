"""What a metric is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["throughput", "latency", "load", "roofline", "energy", "rows", "engine", "phases", "quality"]


@dataclass(frozen=True)
class Metric:
    """One metric; a ``distribution`` appears once per statistic, as ``ttft_ms/p99``. ``better``: the good direction."""

    name: str
    title: str
    unit: str
    definition: str
    group: Group
    distribution: bool = False
    better: Literal["higher", "lower", "neither"] = "neither"
