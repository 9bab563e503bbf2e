"""Log-probabilities of tokens under unprocessed logits, from the device to arrays on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from engine.execute.transfer import to_device, to_host
from engine.logprobs import RawLogprobs

ROWS = 64  # rows of float32 log-probabilities held on the device at a time
LOW = (1 << 32) - 1


class RowLogprobs:
    """Log-probabilities of one token of each row, and of the likeliest ones, for some rows of a step.

    They are computed and sent a bounded number of rows at a time; what they take on the host is 8 bytes per entry, 4
    where the whole vocabulary is asked for. A row's result does not depend on the other rows.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        asking: Mapping[int, int],
        sources: Sequence[int] | None = None,
    ) -> None:
        """Start to compute them: logits [rows, vocab], tokens [rows], ``asking`` the number of likeliest tokens by row
        (-1: all), ``sources`` for each row which one of the logits it has, where that is not its own."""
        rows = list(asking)
        chunks = [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)]
        self._chunks = [
            _Chunk(
                logits,
                tokens,
                chunk,
                [asking[row] for row in chunk],
                chunk if sources is None else [sources[row] for row in chunk],
            )
            for chunk in chunks
        ]

    def by_row(self) -> dict[int, RawLogprobs]:
        """The results by row, once the step is done."""
        return {row: raw for chunk in self._chunks for row, raw in chunk.read()}


class _Chunk:
    """Some rows."""

    def __init__(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        rows: Sequence[int],
        counts: Sequence[int],
        sources: Sequence[int],
    ) -> None:
        self._rows, self._counts = rows, counts
        vocab = logits.shape[1]
        at, source = to_device(np.array((rows, sources), np.int64), logits.device)
        values = torch.log_softmax(logits[source].float(), -1)  # [rows, vocab]
        chosen = values.gather(1, tokens[at][:, None])
        ids = likeliest(values, max(min(count, vocab) for count in counts))
        self._tokens = to_host(tokens[at])
        self._chosen = to_host(chosen[:, 0])
        self._ranks = to_host(1 + (values > chosen).sum(-1))
        self._ids = to_host(ids.int())
        self._values = to_host(values.gather(1, ids))
        whole = np.flatnonzero(np.array(counts) < 0)
        self._whole = to_host(values if len(whole) == len(rows) else values[to_device(whole, logits.device)])

    def read(self) -> Iterator[tuple[int, RawLogprobs]]:
        ids, values, whole = (tensor.numpy() for tensor in (self._ids, self._values, self._whole))
        tokens, chosen, ranks = (column.tolist() for column in (self._tokens, self._chosen, self._ranks))
        spread = iter(whole)
        for i, (row, count) in enumerate(zip(self._rows, self._counts, strict=True)):
            # Copies: a view would keep the rows of other requests alive, and pinned memory.
            if count < 0:
                yield row, RawLogprobs(tokens[i], chosen[i], ranks[i], next(spread).copy(), None)
            else:
                yield row, RawLogprobs(tokens[i], chosen[i], ranks[i], values[i, :count].copy(), ids[i, :count].copy())


def likeliest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Ids of the ``count`` greatest of each row, equals by id: [rows, count] int64.

    ``topk`` of float32 leaves open which of equals it takes, and picks its algorithm by the number of rows. So it gets
    64-bit numbers that are all different: the value's bits in their order, and below them the id, backwards.
    """
    if count <= 0:
        return torch.empty(len(values), 0, dtype=torch.int64, device=values.device)
    bits = values.view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    backwards = LOW - torch.arange(values.shape[1], device=values.device)
    return LOW - (((ordered << 32) | backwards).topk(count).values & LOW)


def in_order(chunks: Sequence[RowLogprobs]) -> list[RawLogprobs]:
    """The results of all chunks in the order of their rows, once they are computed."""
    return [raw for chunk in chunks for raw in chunk.by_row().values()]
