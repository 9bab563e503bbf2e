"""What a run measured, defined once."""

from __future__ import annotations

from runner.measure.summary import summarise

__all__ = ["summarise"]
