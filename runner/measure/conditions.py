"""What may have slowed the GPU down while a run was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.measure.session_work import SessionWork


def gpu_conditions(works: Sequence[SessionWork]) -> dict[str, Any] | None:
    """Of all sessions that could look: ``looks`` at the clocks, the shares of them that found the GPU ``slowed`` (by
    heat or hardware) or ``capped`` (by its power limit), and most ``others``, other processes at once. ``None`` without
    a look."""
    readings = [work.power for work in works]
    looks = sum(reading.looks for reading in readings)
    if not looks:
        return None
    return {
        "looks": looks,
        "slowed": sum(reading.slowed for reading in readings) / looks,
        "capped": sum(reading.capped for reading in readings) / looks,
        "others": max(reading.others for reading in readings),
    }
