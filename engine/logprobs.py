"""Log-probabilities as a request gives them back: mappings over arrays, whose entries are made when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.outputs import Logprob

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RawLogprobs:
    """Log-probabilities at one position.

    ``token`` is the chosen one, with its log-probability and its rank (from 1; equals share the better one). ``values``
    are those of the tokens ``ids``, the likeliest first, equals by id; where ``ids`` is None, those of the whole
    vocabulary in the order of ids.
    """

    token: int
    logprob: float
    rank: int
    values: Floats
    ids: Ints | None


class TokenTexts(Protocol):
    """Knows each token's own text."""

    def token_text(self, token_id: int) -> str:
        """One token's text."""


class PositionLogprobs(Mapping[int, Logprob]):
    """One position's log-probabilities by token id: the likeliest in order, then the chosen one where it is not among
    them.

    Reads like a dict. Nothing in it grows with what was read, but for one array of ranks where a whole vocabulary has
    been walked through.
    """

    __slots__ = ("_ranks", "_raw", "_texts")

    def __init__(self, raw: RawLogprobs, texts: TokenTexts | None) -> None:
        self._raw = raw
        self._texts = texts
        self._ranks: Ints | None = None

    def __len__(self) -> int:
        raw = self._raw
        if raw.ids is None:
            return len(raw.values)
        return len(raw.ids) + (raw.token not in raw.ids)

    def __iter__(self) -> Iterator[int]:
        ids, _, _ = self.arrays()
        return iter(ids.tolist())

    def __getitem__(self, token: int) -> Logprob:
        raw = self._raw
        if raw.ids is None:
            if not isinstance(token, (int, np.integer)) or not 0 <= token < len(raw.values):
                raise KeyError(token)
            return self._entry(int(token), float(raw.values[token]), self._rank(int(token)))
        found = np.flatnonzero(raw.ids == token)
        if len(found):
            place = int(found[0])
            return self._entry(int(token), float(raw.values[place]), place + 1)
        if token == raw.token:
            return self._entry(raw.token, raw.logprob, raw.rank)
        raise KeyError(token)

    def __contains__(self, token: object) -> bool:
        raw = self._raw
        if not isinstance(token, (int, np.integer)):
            return False
        if raw.ids is None:
            return bool(0 <= token < len(raw.values))
        return bool(token == raw.token or token in raw.ids)

    def __repr__(self) -> str:
        shown = ", ".join(f"{token}: {self[token]!r}" for token in self.arrays()[0][:8].tolist())
        return f"{{{shown}{', ...' if len(self) > 8 else ''}}}"

    def arrays(self) -> tuple[Ints, Floats, Ints]:
        """Token ids, log-probabilities and ranks, in the mapping's order."""
        raw = self._raw
        if raw.ids is None:
            order = np.argsort(-raw.values, kind="stable").astype(np.int32)
            ranks = np.arange(1, len(order) + 1, dtype=np.int32)
            if self._ranks is None:
                self._ranks = np.empty_like(ranks)
                self._ranks[order] = ranks
            return order, raw.values[order], ranks
        ranks = np.arange(1, len(raw.ids) + 1, dtype=np.int32)
        if raw.token in raw.ids:
            return raw.ids, raw.values, ranks
        ids, values = np.append(raw.ids, np.int32(raw.token)), np.append(raw.values, np.float32(raw.logprob))
        return ids, values, np.append(ranks, np.int32(raw.rank))

    @property
    def texts(self) -> TokenTexts | None:
        """Where ``decoded_token`` comes from."""
        return self._texts

    def _rank(self, token: int) -> int:
        """Place in the order of the whole vocabulary, equals by id."""
        if self._ranks is not None:
            return int(self._ranks[token])
        values = self._raw.values
        likelier = np.count_nonzero(values > values[token])
        return int(likelier + np.count_nonzero(values[:token] == values[token])) + 1

    def _entry(self, token: int, logprob: float, rank: int) -> Logprob:
        return Logprob(logprob, rank, None if self._texts is None else self._texts.token_text(token))
