"""A step on the device, and what is on its way to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from engine.execute.logprobs import RowLogprobs, in_order
from engine.execute.runner import StepResult
from engine.execute.transfer import to_host
from engine.execute.verify import Rows
from engine.schedule.request import Request


class Launched:
    """A step on the device; what the host needs of it is copied there as soon as it is computed."""

    def __init__(
        self,
        rows: Rows,
        tokens: torch.Tensor,
        logprobs: RowLogprobs | None,
        scored: Mapping[Request, Sequence[RowLogprobs]],
        began: torch.cuda.Event | None,
    ) -> None:
        """Take what the rows are for, the tokens drawn there, their log-probabilities, scores of prompts, and the
        start."""
        self._rows = rows
        self._logprobs = logprobs
        self._scored = scored
        self._tokens = to_host(tokens[: len(rows.parts)])
        self._began = began
        self._ready = start_clock(tokens.device)

    def result(self) -> StepResult:
        """Wait for the step and give its result."""
        return self._result

    @cached_property
    def _result(self) -> StepResult:
        """Made once: the masks of the step after this one ask for its tokens, and the books for all of it."""
        if self._ready is not None:
            self._ready.synchronize()
        logprobs = {} if self._logprobs is None else self._logprobs.by_row()
        seconds = None
        if self._began is not None and self._ready is not None:
            seconds = self._began.elapsed_time(self._ready) / 1e3
        scored = {request: in_order(chunks) for request, chunks in self._scored.items()}
        return replace(
            self._rows.result(self._tokens.tolist(), logprobs), prompt_logprobs=scored, device_seconds=seconds
        )


def start_clock(device: torch.device) -> torch.cuda.Event | None:
    """An event of this moment on the device's clock; None on the CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
