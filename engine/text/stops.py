"""Stop strings: where a text ends, and what must wait because a stop string may have begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StopMatch:
    """``stop`` was found; the text is cut to its first ``cut`` characters."""

    stop: str
    cut: int


@dataclass(frozen=True)
class StopStrings:
    """The stop strings of one request.

    Args:
        stops: non-empty strings.
        include: keep the matched string in the text.
    """

    stops: Sequence[str]
    include: bool = False

    def find(self, text: str, new_chars: int) -> StopMatch | None:
        """The match that is complete first among those that end in the last ``new_chars`` characters of ``text``.

        Of two that end at the same character the longer one counts. So the result is the same whether the text came
        character by character or in larger pieces.
        """
        best: tuple[int, int, str] | None = None  # end, start, stop
        for stop in self.stops:
            start = text.find(stop, max(0, len(text) - new_chars - len(stop) + 1))
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        if best is None:
            return None
        end, start, stop = best
        return StopMatch(stop, end if self.include else start)

    def held_back(self, text: str) -> int:
        """How many characters at the end of ``text`` must not be given out yet: they may begin a stop string."""
        most = 0
        if text and not self.include:
            for stop in self.stops:
                most = max(most, _overlap(text, stop))
        return most


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``, but not all of it."""
    last = text[-1]
    at = stop.rfind(last, 0, min(len(stop) - 1, len(text)))  # only there can the beginning end
    while at >= 0 and not text.endswith(stop[: at + 1]):
        at = stop.rfind(last, 0, at)
    return at + 1
