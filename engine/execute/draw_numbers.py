"""What the draws of a step depend on beside logits, as numbers that go to the device in one copy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate, chain

import numpy as np
import torch

from engine.execute.logits_state import NEUTRAL, LogitsState, Owned
from engine.execute.transfer import ALIGNED, Array, Parcel
from engine.schedule.plan import Slice
from kernels.process_logits import LogitsEdits
from kernels.sample import SamplingRows

NONE = -1  # in place of a row of state


class DrawNumbers:
    """The numbers of the rows of a draw; ``edits`` and ``rows`` are there once the parcel is sent.

    ``edited``: whether ``edits`` says anything of a row but which row of logits it starts from.
    """

    def __init__(
        self,
        parcel: Parcel,
        parts: Sequence[Slice],
        sources: Sequence[int],
        owned: Sequence[Owned],
        banned: Sequence[Collection[int]],
        patterns: Sequence[int],
    ) -> None:
        """Put them into a parcel.

        Args:
            parcel: that is sent later.
            parts: slices that draw, one for each row.
            sources: of each row its row of logits.
            owned: of each row its rows of state.
            banned: tokens ruled out of each row.
            patterns: how many bad words of several tokens each row has.
        """
        params = [part.request.params for part in parts]
        self._count = len(parts)
        self._parcel = parcel
        self._penalised = any(one.occurrences is not None for one in owned)
        self.edited = any(banned) or any(patterns) or any(one.offsets is not None for one in owned)
        self._longs = parcel.add(columns([[p.request.seed for p in parts], [p.stop for p in parts]], np.int64))
        self._ints = parcel.add(
            columns(
                [
                    sources,
                    [NONE if one.offsets is None else one.offsets for one in owned],
                    [NONE if one.history is None else one.history for one in owned],
                    [NEUTRAL if one.occurrences is None else one.occurrences for one in owned],
                    [max(p.top_k, 0) for p in params],
                    [0, *accumulate(map(len, banned))],
                    [0, *accumulate(patterns)],
                ],
                np.int32,
            )
        )
        floats = [[p.temperature for p in params], [p.top_p for p in params], [p.min_p for p in params]]
        if self._penalised:
            floats += [[p.presence_penalty for p in params], [p.frequency_penalty for p in params]]
            floats += [[p.repetition_penalty for p in params]]
        self._floats = parcel.add(columns(floats, np.float32))
        self._tokens = parcel.add(np.fromiter(chain.from_iterable(banned), np.int32))

    def edits(self, state: LogitsState, before: torch.Tensor, last: torch.Tensor) -> LogitsEdits:
        """What becomes of the logits; ``before``, ``last``: patterns of all rows together, as ``LogitsEdits`` has
        them."""
        ints, count = self._parcel[self._ints], self._count
        sources, offset_rows, history_rows = ints[:3, :count]
        token_begins, pattern_begins = ints[5:, : count + 1]
        return LogitsEdits(
            sources=sources,
            offset_rows=offset_rows,
            offsets=state.offsets.rows,
            token_begins=token_begins,
            tokens=self._parcel[self._tokens],
            history_rows=history_rows,
            history=state.history.rows,
            pattern_begins=pattern_begins,
            before=before,
            last=last,
        )

    def rows(self, state: LogitsState) -> SamplingRows:
        """What the sampling kernel reads."""
        seeds, positions = self._parcel[self._longs][:, : self._count]
        states, top_k = self._parcel[self._ints][3:5, : self._count]
        floats = self._parcel[self._floats][:, : self._count]
        rows = SamplingRows(floats[0], top_k, floats[1], floats[2], seeds, positions)
        if not self._penalised:
            return rows
        return replace(
            rows,
            presence=floats[3],
            frequency=floats[4],
            repetition=floats[5],
            states=states,
            occurrences=state.occurrences.rows,
        )


def columns(values: Sequence[Sequence[float]], dtype: type[np.generic]) -> Array:
    """Sequences as rows of a matrix, filled up with zeros; each begins at a multiple of ``ALIGNED`` bytes."""
    unit = ALIGNED // np.dtype(dtype).itemsize
    matrix = np.zeros((len(values), -(-max(map(len, values)) // unit) * unit), dtype)
    for row, numbers in zip(matrix, values, strict=True):
        row[: len(numbers)] = numbers
    return matrix
