"""A step on the device, and what is on its way to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from engine.execute.logprobs import RowLogprobs, in_order
from engine.execute.runner import StepResult
from engine.execute.transfer import to_host
from engine.schedule.plan import Slice
from engine.schedule.request import Request


class Launched:
    """A step on the device; what the host needs of it is copied there as soon as it is computed."""

    def __init__(
        self,
        parts: Sequence[Slice],
        tokens: torch.Tensor,
        logprobs: RowLogprobs | None,
        scored: Mapping[Request, Sequence[RowLogprobs]],
        began: torch.cuda.Event | None,
    ) -> None:
        """Take the slices that sample, the tokens drawn for them, scores of prompts, and the start."""
        self._requests = [part.request for part in parts]
        self._logprobs = logprobs
        self._scored = scored
        self._tokens = to_host(tokens[: len(parts)])
        self._began = began
        self._ready = start_clock(tokens.device)

    def result(self) -> StepResult:
        """Wait for the step and give its result."""
        if self._ready is not None:
            self._ready.synchronize()
        tokens = dict(zip(self._requests, self._tokens.tolist(), strict=True))
        found = {} if self._logprobs is None else self._logprobs.by_row()
        logprobs = {self._requests[row]: scored for row, scored in found.items()}
        seconds = None
        if self._began is not None and self._ready is not None:
            seconds = self._began.elapsed_time(self._ready) / 1e3
        return StepResult(tokens, logprobs, {r: in_order(chunks) for r, chunks in self._scored.items()}, seconds)


def start_clock(device: torch.device) -> torch.cuda.Event | None:
    """An event of this moment on the device's clock; None on the CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
