"""What the processing of logits keeps per request on the device, and how it follows the tokens drawn there.

Three pools of rows: ``offsets`` is what is added to a request's logits at every step (``logit_bias``, and -inf for what
``allowed_token_ids`` and bad words of one token rule out), ``occurrences`` counts tokens for the penalties, ``history``
holds the tokens drawn last for bad words of several tokens. A request has rows only in the pools that it needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.execute.pool import NewRows, Pool
from engine.execute.transfer import Parcel, to_device
from engine.schedule.request import Request, Status
from kernels.drawn_tokens import add_drawn_tokens
from kernels.process_logits import NEVER

NOTHING = -1  # in a history: no token yet; no token id is negative
NEUTRAL = 0  # row of ``occurrences`` that counts nothing and belongs to nobody


@dataclass(slots=True)
class Owned:
    """A request's rows, None where it needs none, and how many tokens of its output they know of."""

    epoch: int
    seen: int
    offsets: int | None = None
    occurrences: int | None = None
    history: int | None = None


NOBODYS = Owned(0, 0)  # of a request whose logits a grammar alone changes


class LogitsState:
    """The pools and who owns which rows."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self.offsets = Pool(vocab_size, torch.float32, 0, device)
        self.occurrences = Pool(vocab_size, torch.int32, 0, device)  # as ``kernels.sample.SamplingRows`` has them
        self.history = Pool(1, torch.int64, NOTHING, device)
        self._owned: dict[Request, Owned] = {}
        self._branches: dict[tuple[Request, int], Owned] = {}
        self._behind: tuple[tuple[int, ...], ...] = ()  # what ``_append`` was last asked for
        self._behind_rows = torch.empty(4, 0, dtype=torch.int32, device=device)
        neutral = self.occurrences.take()
        assert neutral == 0
        self.occurrences.rows[NEUTRAL] = 0

    def of(self, request: Request, ahead: int = 0) -> Owned:
        """The request's rows as they are behind its output, or ``ahead`` drafts further on."""
        if ahead:
            return self._branches.get((request, ahead), NOBODYS)
        return self._owned.get(request, NOBODYS)

    def follow(self, requests: Sequence[Request], drawn: torch.Tensor, at: Sequence[int]) -> None:
        """Make every row know its request's whole output.

        A request that is new here, also after a preemption, is read from the host, which knows its tokens then; one
        whose last token is still pending is brought forward by the token that was drawn last, without the host.

        Args:
            requests: whose next tokens are drawn, each once.
            drawn: int64, tokens drawn last; read only for tokens that are pending.
            at: where in ``drawn`` each request's token stands.
        """
        self._take_back()
        new: list[Request] = []
        behind: list[tuple[int, ...]] = []
        for place, request in zip(at, requests, strict=True):
            owned, output = self._owned.get(request), request.output
            if owned is None or owned.seen > len(output):
                new.append(request)
            elif owned.seen == len(output) - 1:
                owned.seen = len(output)
                if owned.occurrences is not None or owned.history is not None:
                    rows = (-1 if row is None else row for row in (owned.occurrences, owned.history))
                    behind.append((place, -1 if request.pending else output[-1], *rows))
            elif owned.seen < len(output):
                self._catch_up(owned, output[owned.seen :])
        if new:
            self._begin(new)
        if behind:
            self._append(tuple(behind), drawn)

    def branch(self, request: Request, drafts: Sequence[int]) -> None:
        """Rows for the request as it will be if these drafts are right; they are there until the next ``follow``."""
        base = self.of(request)
        if (request, len(drafts)) in self._branches or base is NOBODYS:
            return
        other = Owned(base.epoch, base.seen, base.offsets)
        if base.occurrences is not None:
            other.occurrences = self.occurrences.take()
            self.occurrences.rows[other.occurrences] = self.occurrences.rows[base.occurrences]
        if base.history is not None:
            other.history = self.history.take()
            self.history.rows[other.history] = self.history.rows[base.history]
        self._catch_up(other, drafts)
        self._branches[request, len(drafts)] = other

    def _take_back(self) -> None:
        for branch in self._branches.values():
            for pool, row in ((self.occurrences, branch.occurrences), (self.history, branch.history)):
                if row is not None:
                    pool.give_back(row)
        self._branches.clear()
        for request, owned in list(self._owned.items()):
            if request.status is not Status.RUNNING or request.preemptions != owned.epoch:
                self._drop(request)

    def _drop(self, request: Request) -> None:
        owned = self._owned.pop(request, None)
        if owned is None:
            return
        for pool, row in zip(self._pools(), (owned.offsets, owned.occurrences, owned.history), strict=True):
            if row is not None:
                pool.give_back(row)

    def _pools(self) -> tuple[Pool, Pool, Pool]:
        return self.offsets, self.occurrences, self.history

    def _begin(self, requests: Sequence[Request]) -> None:
        """Rows for requests whose outputs the host knows: one copy, and two launches for each pool."""
        for request in requests:
            self._drop(request)
        self.history.widen(max(longest_bad_word(request) for request in requests) - 1)
        offsets, occurrences, history = NewRows(), NewRows(), NewRows()
        for request in requests:
            owned = self._owned[request] = Owned(request.preemptions, len(request.output))
            if has_offsets(request):
                owned.offsets = self.offsets.take()
                offsets.add(owned.offsets, *_offsets(request))
            if request.params.has_penalties:
                owned.occurrences = self.occurrences.take()
                occurrences.add(owned.occurrences, 0, _occurrences(request))
            if longest_bad_word(request) > 1:
                owned.history = self.history.take()
                width = self.history.rows.shape[1]
                recent = request.output[-width:]
                history.add(owned.history, NOTHING, dict(enumerate(recent, width - len(recent))))
        if not (offsets or occurrences or history):
            return
        parcel = Parcel()
        for rows, dtype in ((offsets, np.float32), (occurrences, np.int32), (history, np.int64)):
            rows.pack(parcel, dtype)
        parcel.send(self.device)
        for rows, pool in zip((offsets, occurrences, history), self._pools(), strict=True):
            rows.write(pool, parcel)

    def _catch_up(self, owned: Owned, tokens: Sequence[int]) -> None:
        """Bring a request's rows forward by tokens that the host knows."""
        owned.seen += len(tokens)
        if owned.occurrences is not None:
            ids = self._ids(tokens)
            self.occurrences.rows[owned.occurrences].index_add_(0, ids, torch.full_like(ids, 2, dtype=torch.int32))
        if owned.history is not None:
            row = self.history.rows[owned.history]
            row.copy_(torch.cat((row, self._ids(tokens)))[len(tokens) :])

    def _append(self, behind: tuple[tuple[int, ...], ...], drawn: torch.Tensor) -> None:
        """Bring rows forward by one token each. A step mostly has the rows of the one before, which are there then."""
        if behind != self._behind:
            self._behind, self._behind_rows = behind, to_device(np.array(behind, np.int32).T, self.device)
        add_drawn_tokens(drawn, self._behind_rows, self.occurrences.rows, self.history.rows)

    def _ids(self, ids: Sequence[int]) -> torch.Tensor:
        return to_device(np.array(ids, np.int64), self.device)


def has_offsets(request: Request) -> bool:
    """Whether something is added to the request's logits at every step."""
    params = request.params
    return (
        bool(params.logit_bias) or params.allowed_token_ids is not None or any(len(w) == 1 for w in request.bad_words)
    )


def longest_bad_word(request: Request) -> int:
    """Tokens of the longest of the request's bad words, 1 where it has none."""
    return max((len(words) for words in request.bad_words), default=1)


def _offsets(request: Request) -> tuple[float, dict[int, float]]:
    """What is added to all of the request's logits, and what to those of some tokens instead."""
    params = request.params
    fill = 0.0 if params.allowed_token_ids is None else NEVER
    cells = dict.fromkeys(params.allowed_token_ids or (), 0.0)
    for token, bias in (params.logit_bias or {}).items():
        cells[token] = cells.get(token, fill) + bias
    cells.update((words[0], NEVER) for words in request.bad_words if len(words) == 1)
    return fill, cells


def _occurrences(request: Request) -> dict[int, float]:
    """Twice how often each token stands in the output, plus 1 where it stands in the prompt, if that has tokens."""
    cells = dict.fromkeys(request.prompt if request.embeds is None else (), 1.0)
    for token, count in Counter(request.output).items():
        cells[token] = cells.get(token, 0) + 2 * count
    return cells
