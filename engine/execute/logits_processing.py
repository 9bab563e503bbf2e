"""From a model's logits to those that tokens are drawn from, for requests that ask for it.

The order is the contract's: ``allowed_token_ids``, ``min_tokens`` (masks every stop id), ``logit_bias``, penalties,
``bad_words``, the mask of a grammar; temperature, filters and the draw are ``kernels.sample``'s. A mask writes -inf,
which no bias, no penalty and no temperature changes, so that masks may be applied at any place in this order; only the
bias has to come before the penalties. Hence ``process`` does biases and all masks, and the sampling kernel begins with
the penalties, whose parameters ``process`` returns.

Where nothing is left of a row, token 0 is drawn, or with a grammar's mask one of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from engine.execute.logits_state import NEUTRAL, LogitsState, Owned
from engine.execute.transfer import to_device
from engine.schedule.plan import Slice
from engine.schedule.request import Request
from kernels.bitmask import apply_bitmask
from kernels.sample import SamplingRows, draw

Words = npt.NDArray[np.int32]
Masks = Callable[[], Mapping[Request, Words]]
"""How a grammar takes part: given to ``Runner.launch``, called once the model's own work of the step is launched (so
that masks may be filled while the device computes), it gives a packed mask for each request of the step that has one:
int32 [ceil(vocab / 32)], bit ``i % 32`` of word ``i // 32`` is 1 where token ``i`` is allowed, the layout of xgrammar
and llguidance. It is applied after ``bad_words`` and before the temperature."""


def needs_processing(request: Request) -> bool:
    """Whether anything but temperature and filters may come between the request's logits and its tokens."""
    return _always_processed(request) or request.params.min_tokens > 0


def is_processed(part: Slice) -> bool:
    """Whether this draw of the slice's request needs processing: ``min_tokens`` ends to matter."""
    return _always_processed(part.request) or masks_stops(part)


def _always_processed(request: Request) -> bool:
    params = request.params
    changed = params.has_penalties or params.logit_bias or params.allowed_token_ids is not None
    return bool(changed or request.bad_words)


def masks_stops(part: Slice) -> bool:
    """Whether stop ids are masked: the output is shorter than ``min_tokens``."""
    return output_length(part) < part.request.params.min_tokens


def output_length(part: Slice) -> int:
    """Output tokens before the one that the slice draws."""
    return part.stop - len(part.request.prompt)


def drafts_before(part: Slice) -> int:
    """Drafts before the token that the slice draws; asked before the step is booked."""
    return part.stop - part.request.total


class LogitsProcessor:
    """Applies requests' fields to their logits; the same on every device."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._state = LogitsState(vocab_size, device)
        self._device = device
        self._patterns = _Patterns((), *(torch.empty(0, dtype=torch.int64),) * 3)

    def follow(self, parts: Sequence[Slice], last: torch.Tensor) -> None:
        """Bring the state of requests up to their last token; before the step overwrites ``last``.

        Args:
            parts: slices whose draws are processed, one of each request.
            last: [parts] int64, the token drawn last for each; read only where the host does not know it.
        """
        self._state.follow([part.request for part in parts], last)

    def draw(
        self,
        logits: torch.Tensor,
        parts: Sequence[Slice],
        rows: SamplingRows,
        filtered: bool,
        masks: Mapping[Request, Words] | None = None,
        drafts: Mapping[Request, Sequence[int]] | None = None,
    ) -> torch.Tensor:
        """One token per row, processed and drawn on the device; nothing waits for it.

        Args:
            logits: [rows, vocab] float32, of slices that draw, ``follow`` has seen those whose draws are processed;
                changed in place.
            parts: those slices; several of a request that has drafts, which end behind its output and behind drafts.
            rows: temperature, filters, seeds and positions.
            filtered: whether any row has filters.
            masks: packed masks of grammars.
            drafts: what is guessed to follow requests' outputs.

        Returns:
            [rows] int64
        """
        for part in parts:
            ahead = drafts_before(part)
            if ahead:
                self._state.branch(part.request, (drafts or {})[part.request][:ahead])
        penalties = self.process(logits, parts, masks)
        return draw(logits, replace(rows, **penalties), filtered)

    def process(
        self, logits: torch.Tensor, parts: Sequence[Slice], masks: Mapping[Request, Words] | None = None
    ) -> dict[str, torch.Tensor]:
        """Biases and masks in place; returns the fields of ``SamplingRows`` that penalties need, if any do."""
        requests = [part.request for part in parts]
        owned = [self._state.of(part.request, drafts_before(part)) for part in parts]
        self._add_offsets(logits, owned)
        self._mask_stops(logits, parts)
        self._ban_sequences(logits, requests, owned)
        if masks:
            self._mask(logits, requests, masks)
        return self._penalties(requests, owned)

    def _add_offsets(self, logits: torch.Tensor, owned: Sequence[Owned]) -> None:
        owners = [(i, one.offsets) for i, one in enumerate(owned) if one.offsets is not None]
        if owners:
            at, rows = self._numbers(owners)
            logits[at] = logits[at] + self._state.offsets.rows[rows]

    def _mask_stops(self, logits: torch.Tensor, parts: Sequence[Slice]) -> None:
        cells = [(i, token) for i, part in enumerate(parts) if masks_stops(part) for token in part.request.stop_ids]
        if cells:
            at, tokens = self._numbers(cells)
            logits[at, tokens] = float("-inf")

    def _ban_sequences(self, logits: torch.Tensor, requests: Sequence[Request], owned: Sequence[Owned]) -> None:
        """Bad words of several tokens: mask the last one where the output ends with those before it."""
        owners = [(i, one.history) for i, one in enumerate(owned) if one.history is not None]
        if not owners:
            return
        patterns = self._patterns = self._patterns.of([requests[i] for i, _ in owners], self._state)
        at, rows = self._numbers(owners)
        recent = self._state.history.rows[rows][patterns.owner]  # [patterns, width]
        complete = ((recent == patterns.before) | (patterns.before < 0)).all(-1)
        banned = torch.where(complete, float("-inf"), 0.0)
        logits.index_put_((at[patterns.owner], patterns.last), banned, accumulate=True)

    def _mask(self, logits: torch.Tensor, requests: Sequence[Request], masks: Mapping[Request, Words]) -> None:
        at = [i for i, request in enumerate(requests) if request in masks]
        if at:
            words = to_device(np.stack([masks[requests[i]] for i in at]), self._device)
            rows = to_device(np.array(at, np.int64), self._device)
            apply_bitmask(logits, rows, words)

    def _penalties(self, requests: Sequence[Request], owned: Sequence[Owned]) -> dict[str, torch.Tensor]:
        counted = [one.occurrences for one in owned]
        if all(row is None for row in counted):
            return {}
        states = np.array([NEUTRAL if row is None else row for row in counted], np.int32)
        params = [request.params for request in requests]
        # Padded to 16 bytes: kernels are compiled apart for pointers that are not aligned to them.
        values = np.zeros((3, -(-len(params) // 4) * 4), np.float32)
        values[0, : len(params)] = [p.presence_penalty for p in params]
        values[1, : len(params)] = [p.frequency_penalty for p in params]
        values[2, : len(params)] = [p.repetition_penalty for p in params]
        presence, frequency, repetition = to_device(values, self._device)[:, : len(params)]
        return {
            "presence": presence,
            "frequency": frequency,
            "repetition": repetition,
            "states": to_device(states, self._device),
            "occurrences": self._state.occurrences.rows,
        }

    def _numbers(self, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Pairs as two columns on the device, int64."""
        return to_device(np.array(pairs, np.int64).T, self._device)


@dataclass(frozen=True)
class _Patterns:
    """The bad words of several tokens of some requests; kept until these change."""

    requests: tuple[Request, ...]
    owner: torch.Tensor  # [patterns] int64: whose it is
    before: torch.Tensor  # [patterns, width] int64: the tokens before its last one, on the right; negative: any
    last: torch.Tensor  # [patterns] int64

    def of(self, requests: Sequence[Request], state: LogitsState) -> _Patterns:
        """The patterns of these requests."""
        width = state.history.rows.shape[1]
        if self.requests == tuple(requests) and self.before.shape[1] == width:
            return self
        each = [[words for words in request.bad_words if len(words) > 1] for request in requests]
        owner = np.repeat(np.arange(len(each)), [len(some) for some in each])
        words = list(chain.from_iterable(each))
        before = np.full((len(words), width), -1, np.int64)
        for row, sequence in zip(before, words, strict=True):
            row[width - len(sequence) + 1 :] = sequence[:-1]
        last = np.array([sequence[-1] for sequence in words], np.int64)
        return _Patterns(tuple(requests), *(to_device(x, state.device) for x in (owner, before, last)))
