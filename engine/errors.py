"""Errors that callers may want to tell apart."""

from __future__ import annotations


class EngineDeadError(RuntimeError):
    """The engine failed in a step and computes nothing any more; ``__cause__`` is what it failed with."""


class UnsupportedOptionError(NotImplementedError):
    """An option that the engine knows by name and does not offer; the message says what to do instead."""
