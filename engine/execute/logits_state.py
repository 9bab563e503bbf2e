"""What the processing of logits keeps per request on the device, and how it follows the tokens drawn there.

Three pools of rows: ``offsets`` is what is added to a request's logits at every step (``logit_bias``, and -inf for what
``allowed_token_ids`` and bad words of one token rule out), ``occurrences`` counts tokens for the penalties, ``history``
holds the tokens drawn last for bad words of several tokens. A request has rows only in the pools that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine.execute.transfer import to_device
from engine.schedule.request import Request, Status

NOTHING = -1  # in a history: no token yet; no token id is negative
NEUTRAL = 0  # row of ``occurrences`` that counts nothing and belongs to nobody
FIRST_ROWS = 4  # a pool starts with so many rows


class Pool:
    """Rows of one width, given out and taken back; grows by doubling."""

    def __init__(self, width: int, dtype: torch.dtype, fill: float, device: torch.device) -> None:
        self.rows = torch.full((0, width), fill, dtype=dtype, device=device)
        self._fill = fill
        self._free: list[int] = []

    def take(self) -> int:
        """A row; what stands in it is whatever its last owner left."""
        if not self._free:
            count, width = self.rows.shape
            more = max(count, FIRST_ROWS)
            self.rows = torch.cat((self.rows, self.rows.new_full((more, width), self._fill)))
            self._free = list(range(count + more - 1, count - 1, -1))
        return self._free.pop()

    def give_back(self, row: int) -> None:
        """Row ``row`` may be given to somebody else."""
        self._free.append(row)

    def widen(self, width: int) -> None:
        """Make rows at least so wide; what they hold stays at their right end."""
        count, old = self.rows.shape
        if width > old:
            self.rows = torch.cat((self.rows.new_full((count, width - old), self._fill), self.rows), 1)


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
        neutral = self.occurrences.take()
        assert neutral == 0
        self.occurrences.rows[NEUTRAL] = 0

    def of(self, request: Request, ahead: int = 0) -> Owned:
        """The request's rows as they are behind its output, or ``ahead`` drafts further on."""
        if ahead:
            return self._branches.get((request, ahead), NOBODYS)
        return self._owned.get(request, NOBODYS)

    def follow(self, requests: Sequence[Request], last: torch.Tensor) -> None:
        """Make every row know its request's whole output.

        A request that is new here, also after a preemption, is read from the host, which knows its tokens then; one
        whose last token is still pending is brought forward by the token that was drawn last, without the host.

        Args:
            requests: whose next tokens are drawn, each once.
            last: [requests] int64, the token drawn last for each.
        """
        self._take_back()
        behind = []
        for i, request in enumerate(requests):
            owned, output = self._owned.get(request), request.output
            if owned is None or owned.seen > len(output):
                self._begin(request)
            elif owned.seen == len(output) - 1 and request.pending:
                owned.seen = len(output)
                behind.append(i)
            elif owned.seen < len(output):
                self._catch_up(owned, output[owned.seen :])
        if behind:
            self._append([self._owned[requests[i]] for i in behind], behind, last)

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

    def _begin(self, request: Request) -> None:
        """Rows for a request whose output the host knows."""
        self._drop(request)
        output = request.output
        owned = self._owned[request] = Owned(request.preemptions, len(output))
        if has_offsets(request):
            owned.offsets = self.offsets.take()
            self._write_offsets(self.offsets.rows[owned.offsets], request)
        if request.params.has_penalties:
            owned.occurrences = self.occurrences.take()
            self._count(self.occurrences.rows[owned.occurrences], request.prompt, output)
        longest = max((len(words) for words in request.bad_words), default=0)
        if longest > 1:
            self.history.widen(longest - 1)
            owned.history = self.history.take()
            width = self.history.rows.shape[1]
            recent = output[-width:]
            known = np.array([NOTHING] * (width - len(recent)) + recent, np.int64)
            self.history.rows[owned.history] = to_device(known, self.device)

    def _write_offsets(self, row: torch.Tensor, request: Request) -> None:
        params = request.params
        row.fill_(0 if params.allowed_token_ids is None else float("-inf"))
        if params.allowed_token_ids is not None:
            row.index_fill_(0, self._ids(sorted(set(params.allowed_token_ids))), 0)
        if params.logit_bias:
            values = np.array(list(params.logit_bias.values()), np.float32)
            row.index_add_(0, self._ids(list(params.logit_bias)), to_device(values, self.device))
        banned = sorted({words[0] for words in request.bad_words if len(words) == 1})
        if banned:
            row.index_fill_(0, self._ids(banned), float("-inf"))

    def _count(self, row: torch.Tensor, prompt: Sequence[int], output: Sequence[int]) -> None:
        row.zero_()
        row.index_fill_(0, self._ids(sorted(set(prompt))), 1)
        if output:
            tokens, counts = np.unique(np.array(output, np.int64), return_counts=True)
            row.index_add_(0, to_device(tokens, self.device), to_device((2 * counts).astype(np.int32), self.device))

    def _catch_up(self, owned: Owned, tokens: Sequence[int]) -> None:
        """Bring a request's rows forward by tokens that the host knows."""
        owned.seen += len(tokens)
        if owned.occurrences is not None:
            ids = self._ids(tokens)
            self.occurrences.rows[owned.occurrences].index_add_(0, ids, torch.full_like(ids, 2, dtype=torch.int32))
        if owned.history is not None:
            row = self.history.rows[owned.history]
            row.copy_(torch.cat((row, self._ids(tokens)))[len(tokens) :])

    def _append(self, owned: Sequence[Owned], behind: Sequence[int], last: torch.Tensor) -> None:
        """Bring rows forward by one token each; ``behind``: where in ``last`` each one's token stands."""
        counting = [(one.occurrences, i) for one, i in zip(owned, behind, strict=True) if one.occurrences is not None]
        if counting:
            rows, at = self._columns(counting)
            self.occurrences.rows[rows, last[at]] += 2
        remembering = [(one.history, i) for one, i in zip(owned, behind, strict=True) if one.history is not None]
        if remembering:
            rows, at = self._columns(remembering)
            self.history.rows[rows] = torch.cat((self.history.rows[rows, 1:], last[at][:, None]), 1)

    def _ids(self, ids: Sequence[int]) -> torch.Tensor:
        return to_device(np.array(ids, np.int64), self.device)

    def _columns(self, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
        numbers: npt.NDArray[np.int64] = np.array(pairs, np.int64).T
        return to_device(numbers, self.device)


def has_offsets(request: Request) -> bool:
    """Whether something is added to the request's logits at every step."""
    params = request.params
    return (
        bool(params.logit_bias) or params.allowed_token_ids is not None or any(len(w) == 1 for w in request.bad_words)
    )
