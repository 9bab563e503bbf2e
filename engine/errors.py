"""Errors of a running engine."""

from __future__ import annotations


class EngineDeadError(RuntimeError):
    """The engine failed in a step and computes nothing any more; ``__cause__`` is what it failed with."""
