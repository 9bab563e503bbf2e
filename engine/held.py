"""Requests that stand in line while their grammars are compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import NamedTuple

from engine.schedule.request import Request, Status
from engine.structured.compiler import Grammar

PATIENCE = 0.01  # seconds that a step waits where there is nothing else to do


class Held(NamedTuple):
    """A prompt's completions, and what they wait for."""

    request_id: str
    requests: Sequence[Request]
    grammar: Future[Grammar]

    @property
    def over(self) -> bool:
        """Whether all have been ended meanwhile."""
        return all(request.status is Status.FINISHED for request in self.requests)


class HeldRequests:
    """They have their numbers and their places in the line already, so that neither seeds nor the order depend on how
    long a compiler takes. Those behind them go first meanwhile."""

    def __init__(self) -> None:
        self._held: list[Held] = []

    def add(self, held: Held) -> None:
        """Keep these from starting."""
        for request in held.requests:
            request.held = True
        self._held.append(held)

    def ready(self, unfinished: int) -> Iterator[Held]:
        """Those whose grammars are there, or cannot be, in order of arrival.

        Where all of the ``unfinished`` requests are held, waits a moment for the first.
        """
        self._held = [one for one in self._held if not one.over]
        if self._held and unfinished <= sum(len(one.requests) for one in self._held):
            wait([self._held[0].grammar], PATIENCE)
        done = [one for one in self._held if one.grammar.done()]
        self._held = [one for one in self._held if one not in done] if done else self._held
        yield from done
