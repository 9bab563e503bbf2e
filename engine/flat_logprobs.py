"""Log-probabilities of many positions in a few arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from engine.logprobs import PositionLogprobs, TokenTexts
from engine.outputs import Logprob

Ints = npt.NDArray[np.int32]


class DecodedTokens(Sequence[str | None]):
    """The texts of tokens, each made when it is read; None where there is no tokenizer."""

    __slots__ = ("_ids", "_texts")

    def __init__(self, ids: Ints, texts: TokenTexts | None) -> None:
        self._ids = ids
        self._texts = texts

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> DecodedTokens: ...
    def __getitem__(self, index: int | slice) -> str | DecodedTokens | None:
        if isinstance(index, slice):
            return DecodedTokens(self._ids[index], self._texts)
        token = int(self._ids[index])
        return None if self._texts is None else self._texts.token_text(token)

    def __repr__(self) -> str:
        return f"[{', '.join(repr(text) for text in self[:8])}{', ...' if len(self) > 8 else ''}]"


@dataclass(frozen=True, eq=False)
class FlatLogprobs(Sequence[dict[int, Logprob]]):
    """vLLM's ``FlatLogprobs``: entries ``start_indices[i]:end_indices[i]`` of the other arrays are position ``i``'s.

    Reads like a list of dicts: ``flat[i]`` is position ``i``'s, a slice is a ``FlatLogprobs`` of its positions. A
    prompt's first position, which nothing predicts, has no entries. Within a position the likeliest tokens come first,
    in order, then the chosen one where it is not among them.
    """

    start_indices: npt.NDArray[np.int64]  # [positions]
    end_indices: npt.NDArray[np.int64]  # [positions]
    token_ids: Ints  # [entries]
    logprobs: npt.NDArray[np.float32]  # [entries]
    ranks: Ints  # [entries]
    decoded_tokens: DecodedTokens  # [entries]

    @classmethod
    def of(cls, positions: Sequence[PositionLogprobs | None]) -> FlatLogprobs:
        """The same log-probabilities in arrays."""
        none = (np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int32))
        columns = [none if one is None else one.arrays() for one in positions]
        ends = np.cumsum([len(ids) for ids, _, _ in columns], dtype=np.int64)
        starts = np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1]))
        ids, values, ranks = (np.concatenate([none[i], *(column[i] for column in columns)]) for i in range(3))
        texts = next((one.texts for one in positions if one is not None), None)
        return cls(starts, ends, ids, values, ranks, DecodedTokens(ids, texts))

    def __len__(self) -> int:
        return len(self.start_indices)

    @overload
    def __getitem__(self, index: int) -> dict[int, Logprob]: ...
    @overload
    def __getitem__(self, index: slice) -> FlatLogprobs: ...
    def __getitem__(self, index: int | slice) -> dict[int, Logprob] | FlatLogprobs:
        if isinstance(index, slice):
            return self._cut(index)
        start, end = int(self.start_indices[index]), int(self.end_indices[index])
        return {
            int(self.token_ids[i]): Logprob(float(self.logprobs[i]), int(self.ranks[i]), self.decoded_tokens[i])
            for i in range(start, end)
        }

    def __iter__(self) -> Iterator[dict[int, Logprob]]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FlatLogprobs):
            return NotImplemented
        names = ("start_indices", "end_indices", "token_ids", "logprobs", "ranks")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]

    def _cut(self, index: slice) -> FlatLogprobs:
        starts, ends = self.start_indices[index], self.end_indices[index]
        taken = np.concatenate([np.empty(0, np.int64), *(np.arange(a, b) for a, b in zip(starts, ends, strict=True))])
        last = np.cumsum(ends - starts)
        ids = self.token_ids[taken]
        texts = DecodedTokens(ids, self.decoded_tokens._texts)
        return FlatLogprobs(last - (ends - starts), last, ids, self.logprobs[taken], self.ranks[taken], texts)


P = TypeVar("P", PositionLogprobs, PositionLogprobs | None)


def given_as(positions: Sequence[P], flat: bool) -> Sequence[P]:
    """Log-probabilities in the form that ``SamplingParams.flat_logprobs`` asks for."""
    return cast(Sequence[P], FlatLogprobs.of(positions)) if flat else list(positions)
