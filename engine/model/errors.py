"""What can be wrong with a model that was asked for."""

from __future__ import annotations


class UnsupportedModelError(ValueError):
    """The model is known, but Galley cannot run it; the message names the option and what is supported."""
