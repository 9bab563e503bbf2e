"""The text of one output while it grows, up to its first stop string."""

from __future__ import annotations

from engine.text.detokenizer import IncrementalDetokenizer
from engine.text.stops import StopStrings


class TextStream:
    """Turns tokens into text that is never taken back: what may become a stop string waits until it is decided.

    All pieces together are the output's text: cut at the stop string where there is one, else what the tokenizer makes
    of all tokens at once.

    Args:
        detokenizer: of this output.
        stops: what ends it.
        piecewise: give out what is certain; else all of it comes at the end, for less work on the way.
    """

    def __init__(self, detokenizer: IncrementalDetokenizer, stops: StopStrings, piecewise: bool = True) -> None:
        self.stop: str | None = None  # the stop string that was found
        self._piecewise = piecewise
        self._detokenizer = detokenizer
        self._stops = stops
        self._reach = max((len(stop) for stop in stops.stops), default=1) - 1
        self._given: list[str] = []
        self._held = ""  # not given out yet: it may begin a stop string, or nobody reads it before the end
        self._tail = ""  # the last characters of all text: a stop string that is completed later may begin in them

    @property
    def text(self) -> str:
        """All that has been given out."""
        return "".join(self._given)

    def push(self, token_id: int, search: bool = True) -> str:
        """The text that is certain with one more token.

        Args:
            token_id: the token.
            search: look for stop strings that it completes.
        """
        return self._take(self._detokenizer.push(token_id), search)

    def finish(self, search: bool = True) -> str:
        """The rest, once no token follows; nothing after a stop string."""
        if self.stop is not None:
            return ""
        piece = self._take(self._detokenizer.flush(), search)
        if self.stop is None:
            piece += self._give(self._held)
            self._held = ""
        return piece

    def _take(self, new: str, search: bool) -> str:
        if not new:
            return ""
        if not self._stops.stops and self._piecewise:
            self._given.append(new)
            return new
        pending = self._held + new
        window = self._tail + new if self._piecewise else pending
        match = self._stops.find(window, len(new)) if search else None
        if match is not None:
            self.stop, self._held = match.stop, ""
            # What has been given out cannot be part of the match's beginning: see ``held_back``.
            return self._give(pending[: match.cut - (len(window) - len(pending))])
        if not self._piecewise:
            self._held = pending
            return ""
        ready = len(pending) - self._stops.held_back(window)
        self._held = pending[ready:]
        self._tail = window[-self._reach :] if self._reach else ""
        return self._give(pending[:ready])

    def _give(self, piece: str) -> str:
        if piece:
            self._given.append(piece)
        return piece
