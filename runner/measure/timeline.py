"""The engine's timeline as columns, thinned to what a plot can show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.stats import TimelinePoint

MOST_POINTS = 1200  # more than a plot has pixels across; keeps metrics.json small for day-long runs


def timeline_columns(points: Sequence[TimelinePoint]) -> dict[str, list[float]]:
    """``time_s``, ``running``, ``waiting``, ``kv_use`` and cumulative ``output_tokens``, evenly thinned by index.

    The first and the last point are always kept.
    """
    keep = np.unique(np.linspace(0, max(len(points) - 1, 0), min(len(points), MOST_POINTS)).round().astype(int))
    kept = [points[i] for i in keep] if points else []
    return {
        "time_s": [round(p.time, 4) for p in kept],
        "running": [p.running for p in kept],
        "waiting": [p.waiting for p in kept],
        "kv_use": [round(p.kv_use, 5) for p in kept],
        "output_tokens": [p.output_tokens for p in kept],
    }
