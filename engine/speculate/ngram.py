"""Prompt lookup: the last tokens have stood before, and what followed them there may follow again."""

from __future__ import annotations

from collections.abc import Sequence

CANDIDATES = 8  # earlier places that are compared, the latest ones


class NgramIndex:
    """Where each run of ``least`` tokens of one growing sequence stands.

    A hash chain, as in LZ77 compressors: the last place of each run, and for each place the one before with the same
    run. Adding a token takes constant time, a look-up at most ``CANDIDATES`` comparisons.
    """

    def __init__(self, least: int, most: int) -> None:
        """Look for places where at least ``least`` tokens agree; prefer those where more do, up to ``most``."""
        self._least = least
        self._most = most
        self._tokens: list[int] = []
        self._last: dict[int, int] = {}  # run of tokens, as one number, to the place behind it
        self._before: list[int] = []  # by place: the previous place behind the same run, or -1
        self._run = 0
        self._mask = (1 << 32 * least) - 1

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """The sequence goes on."""
        for token in tokens:
            self._enter()
            self._tokens.append(token)
            self._run = (self._run << 32 | token) & self._mask

    def propose(self, count: int) -> list[int]:
        """``count`` tokens that may follow, or none.

        Of the latest earlier places behind the same last tokens, the one where most tokens agree, the later of two. A
        place near the end means that the sequence repeats itself: the draft goes on repeating.
        """
        place = self._best()
        if place is None:
            return []
        drafts = self._tokens[place : place + count]
        period = len(self._tokens) - place
        while len(drafts) < count:
            drafts.append(drafts[len(drafts) - period])
        return drafts

    def _enter(self) -> None:
        """Enter the run that ends at the sequence's end: something follows it now."""
        place = len(self._tokens)
        known = place >= self._least
        self._before.append(self._last.get(self._run, -1) if known else -1)
        if known:
            self._last[self._run] = place

    def _best(self) -> int | None:
        best, longest = None, self._least - 1
        place = self._last.get(self._run, -1) if len(self._tokens) >= self._least else -1
        for _ in range(CANDIDATES):
            if place < 0 or longest >= self._most:
                break
            agreeing = self._agreeing(place)
            if agreeing > longest:
                best, longest = place, agreeing
            place = self._before[place]
        return best

    def _agreeing(self, place: int) -> int:
        """How many tokens before ``place`` equal those at the end; the first ``least`` do."""
        tokens, end, length = self._tokens, len(self._tokens), self._least
        while length < min(self._most, place) and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length
