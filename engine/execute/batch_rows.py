"""Rows of per-request state on the device: a step sends only what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine.execute.logits_processing import needs_processing
from engine.execute.transfer import to_device
from engine.schedule.plan import Slice
from engine.schedule.request import Request, Status
from kernels.step_inputs import RequestRows

Ints = npt.NDArray[np.int32]


@dataclass(slots=True)
class Row:
    """A running request's row: blocks of it that the device knows, and the position of the token drawn there last."""

    number: int
    epoch: int
    sent: int = 0
    fed: int = -1


class BatchRows:
    """Block tables, tokens drawn last and sampling parameters: a row per running request.

    A request holds a row from its first step until it no longer runs. The last row, ``padding``, belongs to nobody: it
    pads batches, and samples greedily.
    """

    def __init__(self, max_seqs: int, width: int, device: torch.device) -> None:
        """Rows for ``max_seqs`` requests of at most ``width`` blocks each."""
        self.device = device
        self.padding = max_seqs
        self.state = RequestRows(
            tables=torch.zeros(max_seqs + 1, width, dtype=torch.int32, device=device),
            last=torch.zeros(max_seqs + 1, dtype=torch.int64, device=device),
            seeds=torch.zeros(max_seqs + 1, dtype=torch.int64, device=device),
            top_k=torch.zeros(max_seqs + 1, dtype=torch.int32, device=device),
            floats=torch.zeros(3, max_seqs + 1, device=device),
        )
        self.processed: set[Request] = set()  # those whose logits are changed before the draw
        self.scored: set[Request] = set()  # those that ask for log-probabilities
        self.filtering: set[Request] = set()  # those that leave tokens out
        self.given: set[Request] = set()  # those whose prompts came as embeddings
        self._rows: dict[Request, Row] = {}
        self._free = list(range(max_seqs - 1, -1, -1))

    def __getitem__(self, request: Request) -> Row:
        return self._rows[request]

    def feed(self, tokens: Mapping[Request, int]) -> None:
        """Tell the device the last tokens of requests that it did not draw them for."""
        if not tokens:
            return
        numbers = np.array([(self._rows[request].number, token) for request, token in tokens.items()], np.int64).T
        where, what = to_device(numbers, self.device)
        self.state.last[where] = what

    def follow(self, slices: Sequence[Slice]) -> None:
        """Take rows back from requests that no longer run, give new ones out, and send what the device lacks."""
        rows = self._rows
        unknown = [part for part in slices if part.request not in rows or rows[part.request].epoch != part.epoch]
        if unknown or len(rows) != len(slices):
            self._take_back()
        new = []
        for part in unknown:
            row = rows[part.request] = Row(self._free.pop(), part.epoch)
            new.append((row.number, part.request))
            if needs_processing(part.request):
                self.processed.add(part.request)
            if part.request.params.logprobs is not None:
                self.scored.add(part.request)
            if part.request.embeds is not None:
                self.given.add(part.request)
            if part.request.params.filters:
                self.filtering.add(part.request)
        cells: list[tuple[int, int, int]] = []
        for part in slices:
            row, blocks = rows[part.request], part.request.blocks
            if row.sent < len(blocks):
                cells += [(row.number, n, blocks[n]) for n in range(row.sent, len(blocks))]
                row.sent = len(blocks)
        if new:
            self._send_parameters(new)
        if cells:
            where = to_device(np.array(cells, np.int32).T, self.device)
            self.state.tables[where[0], where[1]] = where[2]

    def _take_back(self) -> None:
        for request, row in list(self._rows.items()):
            if request.status is not Status.RUNNING or request.preemptions != row.epoch:
                self._free.append(self._rows.pop(request).number)
                for group in (self.processed, self.scored, self.filtering, self.given):
                    group.discard(request)

    def _send_parameters(self, new: Sequence[tuple[int, Request]]) -> None:
        params = [request.params for _, request in new]
        ints = np.array([(n, r.seed, max(r.params.top_k, 0)) for n, r in new], np.int64).T
        floats = np.array([(p.temperature, p.top_p, p.min_p) for p in params], np.float32).T
        numbers, seeds, top_k = to_device(ints, self.device)
        self.state.seeds[numbers] = seeds
        self.state.top_k[numbers] = top_k.int()
        self.state.floats[:, numbers] = to_device(floats, self.device)
