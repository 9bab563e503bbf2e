"""A step on the device, and what is on its way to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from engine.execute.runner import StepResult
from engine.execute.sampler import RawLogprobs, Sample
from engine.execute.verify import Rows
from engine.schedule.request import Request

LOGPROB_ROWS = 64  # rows of float32 log-probabilities held at a time


class RowLogprobs:
    """Log-probabilities of drawn tokens and of the likeliest ones, from unprocessed logits, for some rows of a step."""

    def __init__(self, logits: torch.Tensor, tokens: torch.Tensor, asking: Mapping[int, int]) -> None:
        """Start to compute them: logits [rows, vocab], tokens [rows], ``asking`` the number of likeliest tokens by row
        (-1: all)."""
        self._asking = dict(asking)
        vocab = logits.shape[1]
        most = max(vocab if count < 0 else min(count, vocab) for count in asking.values())
        rows = torch.tensor(list(asking), device=logits.device)
        parts = [_logprobs(logits[some], tokens[some], most) for some in rows.split(LOGPROB_ROWS)]
        self._host = [to_host(torch.cat(column)) for column in zip(*parts, strict=True)]

    def by_row(self) -> dict[int, RawLogprobs]:
        """The results by row, once the step is done."""
        tokens, chosen, ranks, values, ids = (column.tolist() for column in self._host)
        found = {}
        for i, (row, count) in enumerate(self._asking.items()):
            many = len(ids[i]) if count < 0 else count
            found[row] = RawLogprobs(
                tokens[i], chosen[i], ranks[i], tuple(zip(ids[i][:many], values[i][:many], strict=True))
            )
        return found


class Launched:
    """A step on the device; what the host needs of it is copied there as soon as it is computed."""

    def __init__(
        self,
        rows: Rows,
        tokens: torch.Tensor,
        logprobs: RowLogprobs | None,
        again: Mapping[int, Sample],
        scored: Mapping[Request, Sequence[RawLogprobs]],
        began: torch.cuda.Event | None,
    ) -> None:
        """Take what the rows are for, the tokens drawn there, what was computed apart from those, and the start.

        ``again`` are rows that were drawn anew.
        """
        self._rows = rows
        self._logprobs = logprobs
        self._again = again
        self._scored = scored
        self._tokens = to_host(tokens[: len(rows.requests)])
        self._began = began
        self._ready = start_clock(tokens.device)

    def result(self) -> StepResult:
        """Wait for the step and give its result."""
        if self._ready is not None:
            self._ready.synchronize()
        tokens = self._tokens.tolist()
        logprobs = {} if self._logprobs is None else self._logprobs.by_row()
        for row, sample in self._again.items():
            tokens[row] = sample.token
            if sample.logprobs is not None:
                logprobs[row] = sample.logprobs
        seconds = None
        if self._began is not None and self._ready is not None:
            seconds = self._began.elapsed_time(self._ready) / 1e3
        return replace(self._rows.result(tokens, logprobs), prompt_logprobs=self._scored, device_seconds=seconds)


def start_clock(device: torch.device) -> torch.cuda.Event | None:
    """An event of this moment on the device's clock; None on the CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Copy to the host without waiting; the copy may be read once an event after it has passed."""
    if not tensor.is_cuda:
        return tensor.clone()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _logprobs(logits: torch.Tensor, tokens: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """Token, log-probability, rank, and the ``count`` likeliest values and ids of each row of logits [rows, vocab]."""
    values = torch.log_softmax(logits.float(), -1)
    chosen = values.gather(1, tokens[:, None])
    top = values.topk(count)
    return tokens, chosen[:, 0], (values > chosen).sum(-1) + 1, top.values, top.indices
