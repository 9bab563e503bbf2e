"""What a metric does with one output, and with the sums over many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[np.float64]


class NotScorableError(ValueError):
    """A row that a metric leaves out, because it has no reference."""


class Scored(NamedTuple):
    """One output's figures, and the statistics whose sums over the rows give the total."""

    figures: tuple[float, ...]
    statistics: tuple[float, ...]


class Scorer(Protocol):
    """One metric of a recipe; ``figures`` of a row and of the total come in the order of its section's names."""

    def score(self, output: str, reference: Any) -> Scored:
        """Judge one output.

        Raises:
            NotScorableError: the reference is missing.
        """

    def total(self, sums: Sums, rows: float) -> tuple[float, ...]:
        """The figures over all rows, from the sums of their statistics and their number."""


class MeanScorer:
    """A metric whose total is the mean over the rows."""

    def total(self, sums: Sums, rows: float) -> tuple[float, ...]:
        """Each figure's mean."""
        return tuple(float(value) for value in sums / rows)


def mean_of(figures: Sequence[float]) -> Scored:
    """Figures that are their own statistics."""
    return Scored(tuple(figures), tuple(figures))


def references_of(value: Any) -> list[str]:
    """One or several references as texts; numbers and other values as JSON writes them.

    Raises:
        NotScorableError: there is none.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    found = [_text(one) for one in values if one is not None]
    if not found:
        raise NotScorableError("no reference")
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
