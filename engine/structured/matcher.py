"""Follows one output through its grammar and says which tokens may come next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from llguidance import LLMatcher

Words = npt.NDArray[np.int32]  # a row of a packed mask: bit ``i % 32`` of word ``i // 32`` is token ``i``'s


class Matcher:
    """One output's place in its grammar.

    An end token (EOS or a stop id) is allowed only where the grammar is complete. After it, nothing but end tokens is
    allowed: an output that may not end yet (``min_tokens``, ``ignore_eos``) is filled up with them.

    Where nothing at all is allowed, because the grammar wants what no token can write or has grown beyond the library's
    limits, ``error`` says so and the end tokens are allowed, so that every row has a token.
    """

    def __init__(self, matcher: LLMatcher, end_ids: Collection[int], never: Collection[int], words: int) -> None:
        """Take a matcher at its grammar's beginning.

        Args:
            matcher: the library's own.
            end_ids: tokens that end the output; at least one.
            never: tokens that the library may allow, and that must not be drawn.
            words: of a mask's row.
        """
        self.error: str | None = None
        self.words = words
        self.taken = 0  # tokens of the output that it has followed
        self._matcher = matcher
        self._ended: int | None = None  # tokens before the first end token
        self._ends = _bits(end_ids, words)
        self._text = ~(self._ends | _bits(never, words))
        self._end_ids = frozenset(end_ids)

    def advance(self, token: int) -> bool:
        """Follow the output by a token; False where the grammar does not allow it, after which ``error`` is set."""
        self.taken += 1
        if self._ended is not None or self.error is not None:
            return token in self._end_ids
        if token in self._end_ids and self._matcher.is_accepting():
            self._ended = self.taken - 1
            return True
        if self._matcher.consume_token(token):
            return True
        self.error = one_line(self._matcher.get_error()) or f"token {token} does not fit the grammar"
        return False

    def rollback(self, count: int) -> None:
        """Go back by ``count`` tokens that were allowed."""
        assert 0 <= count <= self.taken
        assert self.error is None
        self.taken -= count
        fed = self.taken + count if self._ended is None else self._ended
        if fed > self.taken:
            self._matcher.rollback(fed - self.taken)
        if self._ended is not None and self._ended >= self.taken:
            self._ended = None

    def follow(self, output: Sequence[int], length: int | None = None) -> None:
        """Be where ``output``, or its beginning of ``length`` tokens, ends; what it has followed is known to agree."""
        length = len(output) if length is None else length
        if self.taken > length:
            self.rollback(self.taken - length)
        for token in output[self.taken : length]:
            self.advance(token)

    @property
    def complete(self) -> bool:
        """Whether the output may end here."""
        return self._ended is not None or bool(self._matcher.is_accepting())

    @property
    def computes(self) -> bool:
        """Whether the next mask has to be computed: ``source`` then writes it, and ``finish`` makes it whole."""
        return self._ended is None and self.error is None

    @property
    def source(self) -> LLMatcher:
        """The library's matcher."""
        return self._matcher

    @property
    def text(self) -> Words:
        """What the library's mask is cut down to before ``finish``, [words]: tokens that neither end nor are ruled
        out."""
        return self._text

    def finish(self, row: Words, left: bool) -> None:
        """Make of the library's mask, where there is one, the tokens allowed next.

        Args:
            row: [words], within ``text``; changed in place.
            left: whether any bit of it is set.
        """
        if self.computes:
            if self._matcher.is_accepting():
                row |= self._ends
            elif self._matcher.is_error() or not left:
                self.error = self._dead_end()
        if not self.computes:
            row[:] = self._ends

    def _dead_end(self) -> str:
        reason = one_line(self._matcher.get_error())
        if reason and not reason.startswith("NoExtension"):
            return f"the grammar has grown beyond the library's limits: {reason}"
        return "no token of the vocabulary goes on with the text as the grammar wants it"

    def fill(self, row: Words) -> None:
        """Write the tokens allowed next; ``row``: [words]."""
        if self.computes:
            self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            row &= self._text
        self.finish(row, bool(row.any()))


def _bits(tokens: Collection[int], words: int) -> Words:
    bits: Any = np.zeros(words, np.uint32)
    for token in tokens:
        if token < 32 * words:
            bits[token // 32] |= np.uint32(1 << token % 32)
    return np.asarray(bits.view(np.int32))


def one_line(text: str) -> str:
    """A library's message on one line."""
    return " ".join(text.replace("<non-verbose/>", "").split())[:300]
