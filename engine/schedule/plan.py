"""What one step computes: pure data, handed from the scheduler to the model runner and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.schedule.request import Request


class Slice(NamedTuple):
    """A request's share of a step: its tokens at positions ``start`` to ``stop``.

    ``samples``: the slice ends at the request's last token, so the step draws the next one. ``epoch`` counts the
    request's preemptions before the slice: a slice of an earlier epoch computed blocks that the request no longer has.
    """

    request: Request
    start: int
    stop: int
    samples: bool
    epoch: int


@dataclass(frozen=True)
class StepPlan:
    """The slices of one step, in the order in which their tokens are laid out, and the copies that go before.

    ``swap_out`` and ``swap_in`` are pairs of a device block and a host slot; outwards comes first.
    """

    slices: Sequence[Slice]
    swap_out: Sequence[tuple[int, int]] = ()
    swap_in: Sequence[tuple[int, int]] = ()

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(part.stop - part.start for part in self.slices)
