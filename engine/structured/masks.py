"""Which tokens the grammars allow at a step, filled while the model computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import PENDING, Request
from engine.structured.matcher import Matcher, Words

if TYPE_CHECKING:
    from llguidance import LLExecutor

FEW = 8  # masks that one thread makes sooner than it wakes others

Tokens = Mapping[Request, int]
Masks = Callable[[], Mapping[Request, Words]]


class GrammarMasks:
    """The matchers of running requests.

    A matcher follows its request's output by the number of tokens that it has seen, so that a request that is
    preempted and computed again does not advance it twice.
    """

    def __init__(self) -> None:
        self._matchers: dict[Request, Matcher] = {}
        self._together: Sequence[Matcher] = ()  # those of the last step of many rows, and their texts
        self._texts = np.zeros((0, 0), np.int32)

    def __bool__(self) -> bool:
        """Whether any request has a grammar."""
        return bool(self._matchers)

    def add(self, request: Request, matcher: Matcher) -> None:
        """Follow a request until ``forget``."""
        self._matchers[request] = matcher

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._matchers.pop(request, None)

    def error(self, request: Request) -> str | None:
        """Why the grammar cannot go on, for requests that have one."""
        matcher = self._matchers.get(request)
        return None if matcher is None else matcher.error

    def of(self, plan: StepPlan, pending: Callable[[], Tokens] | None, beside: bool) -> Masks | None:
        """The masks of a step that is about to be launched; None where no grammar takes part.

        Args:
            plan: of the step.
            pending: gives the tokens of the step before, waiting for them; None where they are in the outputs.
            beside: whether another thread fills the masks from now on, and calling the result waits for it: where the
                launch itself computes the step. Where it leaves that to a device, such a thread would only keep it from
                Python's lock; there calling the result fills the masks, while the device is busy with the step.
        """
        if not self._matchers:
            return None
        parts = [part for part in plan.slices if part.samples and part.request in self._matchers]
        if not parts:
            return None
        if pending is not None:
            return lambda: self._fill(parts, pending())
        if beside:
            return self._thread.submit(self._fill, parts, {}).result
        return lambda: self._fill(parts, {})

    def _fill(self, parts: Sequence[Slice], drawn: Tokens) -> dict[Request, Words]:
        matchers = [self._matchers[part.request] for part in parts]
        for part, matcher in zip(parts, matchers, strict=True):
            output, length = part.request.output, part.stop - len(part.request.prompt)
            pending = length > 0 and output[length - 1] == PENDING
            matcher.follow(output, length - pending)
            if pending:
                matcher.advance(drawn[part.request])
        rows = np.zeros((len(parts), matchers[0].words), np.int32)
        if len(parts) > FEW:
            self._fill_together(matchers, rows)
        else:
            for matcher, row in zip(matchers, rows, strict=True):
                matcher.fill(row)
        return {part.request: row for part, row in zip(parts, rows, strict=True)}

    def _fill_together(self, matchers: Sequence[Matcher], rows: Words) -> None:
        """Masks of many rows, [rows, words], by several threads, and what they share of the work by one operation."""
        computing = [(matcher.source, i) for i, matcher in enumerate(matchers) if matcher.computes]
        if computing:
            self._executor.unsafe_compute_mask_ptr(computing, rows.ctypes.data, rows[0].nbytes, len(rows))
        if self._together != matchers:
            self._together, self._texts = matchers, np.stack([matcher.text for matcher in matchers])
        rows &= self._texts
        for matcher, row, left in zip(matchers, rows, np.bitwise_or.reduce(rows, axis=1).tolist(), strict=True):
            matcher.finish(row, left != 0)

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "masks")

    @cached_property
    def _executor(self) -> LLExecutor:
        """Fills many rows on several cores, without Python's lock."""
        from llguidance import LLExecutor

        return LLExecutor()
