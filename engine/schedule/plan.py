"""What one step computes: pure data, handed from the scheduler to the model runner and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.schedule.request import Request


class Slice(NamedTuple):
    """A request's share of a step: its tokens at positions ``start`` to ``stop``.

    ``samples``: the slice ends at the request's last token, so the step draws the next one. ``epoch`` counts the
    request's preemptions before the slice: a slice of an earlier epoch computed blocks that the request no longer has.
    A slice without tokens is one of the plan's ``forks``.
    """

    request: Request
    start: int
    stop: int
    samples: bool
    epoch: int


@dataclass(frozen=True)
class StepPlan:
    """The slices of one step, in the order in which their tokens are laid out, and the copies that go before.

    ``swap_out`` and ``swap_in`` are pairs of a device block and a host slot, ``copies`` pairs of device blocks,
    from and to. Outwards comes first.

    ``forks``: completions of a prompt that begin where another one's slice ends the prompt, in this very step. They
    compute nothing: their first tokens are drawn from that one's logits.

    ``drafts``: tokens that are guessed to follow, for some of the slices that sample (speculative decoding, Leviathan
    et al. 2023). Such a slice goes on past the request's last token over its drafts, and the step draws a token behind
    the last token and behind each draft.
    """

    slices: Sequence[Slice]
    swap_out: Sequence[tuple[int, int]] = ()
    swap_in: Sequence[tuple[int, int]] = ()
    drafts: Mapping[Request, Sequence[int]] = field(default_factory=dict)
    copies: Sequence[tuple[int, int]] = ()
    forks: Mapping[Request, Request] = field(default_factory=dict)

    @property
    def computing(self) -> Sequence[Slice]:
        """The slices that have tokens."""
        return [part for part in self.slices if part.request not in self.forks] if self.forks else self.slices

    @property
    def forked(self) -> Sequence[Slice]:
        """The slices of ``forks``."""
        return [part for part in self.slices if part.request in self.forks] if self.forks else ()

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(part.stop - part.start for part in self.slices)

    def token_ids(self, part: Slice) -> list[int]:
        """The tokens of one of the plan's slices, drafts included."""
        known = part.request.tokens(part.start, part.stop)
        if not self.drafts or part.request not in self.drafts:
            return known
        total = part.request.total
        return known + list(self.drafts[part.request][max(0, part.start - total) : max(0, part.stop - total)])

    def rows(self, part: Slice) -> int:
        """How many tokens the step draws for one of the plan's slices, each behind one of the slice's last tokens."""
        if not part.samples or part.request not in self.drafts:
            return int(part.samples)
        return part.stop - max(part.start, part.request.total - 1)
