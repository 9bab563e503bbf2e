"""The search for saturation: which rate is tried next, from what became of the ones before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.config.load import SaturationLoad
from runner.load.phases import TRIAL, phase_of


@dataclass
class Tally:
    """A trial's requests so far, and how many of them were good."""

    requests: int = 0
    good: int = 0

    def add(self, good: bool) -> None:
        """One more request."""
        self.requests += 1
        self.good += good


@dataclass
class Search:
    """Lowest rate, highest rate, then the geometric middle between the highest that held and the lowest that did not.

    It assumes that what holds at a rate holds below it. Deterministic: the same answers give the same rates, so a
    search goes on from its answers alone.
    """

    load: SaturationLoad
    trials: list[tuple[float, Tally]] = field(default_factory=list)
    held: float | None = None  # the highest rate that did
    broke: float | None = None  # the lowest rate that did not
    held_trial: int | None = None

    def next_rate(self) -> float | None:
        """The rate of the next trial, ``None`` at the end."""
        if self.held is None:
            return self.load.rate_min if self.broke is None else None
        if self.broke is None:
            return self.load.rate_max if self.held < self.load.rate_max else None
        if self.broke / self.held <= 1 + self.load.resolution:
            return None
        return math.sqrt(self.held * self.broke)

    def tell(self, tally: Tally) -> None:
        """What became of the trial at ``next_rate``."""
        rate = self.next_rate()
        assert rate is not None
        if tally.good >= self.load.attainment * tally.requests:
            self.held, self.held_trial = rate, len(self.trials)
        else:
            self.broke = rate
        self.trials.append((rate, tally))

    def replay(self, tallies: Mapping[int, Tally]) -> None:
        """Take the answers of trials that are complete, from the first on."""
        while self.next_rate() is not None:
            tally = tallies.get(len(self.trials))
            if tally is None or tally.requests < self.load.trial_requests:
                return
            self.tell(tally)

    def table(self) -> list[dict[str, Any]]:
        """Each trial as plain data."""
        return [
            {
                "phase": phase_of(number),
                "rate_per_s": rate,
                "requests": tally.requests,
                "good_share": tally.good / tally.requests,
                "holds": tally.good >= self.load.attainment * tally.requests,
            }
            for number, (rate, tally) in enumerate(self.trials)
        ]


def tallies(rows: Iterable[tuple[str | None, bool]]) -> dict[int, Tally]:
    """Trials by number, from each request's phase and whether it was good."""
    found: dict[int, Tally] = {}
    for phase, good in rows:
        if phase is not None and phase.startswith(TRIAL):
            found.setdefault(int(phase.removeprefix(TRIAL)), Tally()).add(good)
    return found
