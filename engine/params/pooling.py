"""Pooling parameters of one request."""

from __future__ import annotations

from dataclasses import dataclass

from engine.params.checks import check, is_int


@dataclass(frozen=True, kw_only=True)
class PoolingParams:
    """How one embedding is formed.

    Args:
        normalize: scale the vector to length 1.
        dimensions: keep only the first so many values (Matryoshka models), before normalising.
    """

    normalize: bool = True
    dimensions: int | None = None

    def __post_init__(self) -> None:
        check(
            self.dimensions is None or (is_int(self.dimensions) and self.dimensions >= 1),
            "dimensions",
            self.dimensions,
            "an integer of at least 1, or None",
        )
