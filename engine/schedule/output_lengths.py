"""How long outputs will be: certain from their bounds, or estimated from those that have finished."""

from __future__ import annotations

from engine.schedule.request import Request


class OutputLengths:
    """An output that nothing but its bound can end (``ignore_eos``, no stops) is as long as its bound.

    Of any other, the rest of its bound times the mean share of their bounds that finished outputs have used is to be
    expected; a quarter, before any has finished. All integers: the same requests are planned the same everywhere.
    """

    def __init__(self) -> None:
        self._used, self._allowed = 1, 4  # tokens of finished outputs, and their bounds

    def learn(self, request: Request) -> None:
        """A request has ended by itself."""
        if not request.certain:
            self._used += len(request.output)
            self._allowed += request.max_output

    def rest(self, request: Request) -> int:
        """Tokens that the request will still write."""
        most = remaining(request)
        return most if request.certain else min(most, max(1, self.scaled(most)))

    def scaled(self, tokens: int) -> int:
        """What is to be expected of ``tokens`` that uncertain outputs may have."""
        return tokens * self._used // self._allowed


def remaining(request: Request) -> int:
    """Most tokens that the request may still write."""
    return request.max_output - len(request.output)
