"""From a model's logits to those that tokens are drawn from, for requests that ask for it.

The order is the contract's: ``allowed_token_ids``, ``min_tokens`` (masks every stop id), ``logit_bias``, penalties,
``bad_words``, the mask of a grammar; temperature, filters and the draw are ``kernels.sample``'s. A mask writes -inf,
which no bias, no penalty and no temperature changes, so that masks may be applied at any place in this order; only the
bias has to come before the penalties. Hence ``process_logits`` does biases and all masks but those of grammars, which
``apply_bitmask`` does, and the sampling kernel begins with the penalties.

Where nothing is left of a row, token 0 is drawn, or with a grammar's mask one of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from engine.execute.draw_numbers import DrawNumbers
from engine.execute.logits_state import LogitsState
from engine.execute.transfer import Parcel, to_device
from engine.schedule.plan import Slice
from engine.schedule.request import Request
from kernels.bitmask import apply_bitmask
from kernels.process_logits import process_logits
from kernels.sample import draw

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
        self._patterns = _Patterns((), (), *(torch.empty(0, 1, dtype=torch.int64, device=device),) * 2)

    def follow(self, parts: Sequence[Slice], drawn: torch.Tensor, at: Sequence[int]) -> None:
        """Bring the state of requests up to their last token; before the step overwrites ``drawn``.

        Args:
            parts: slices whose draws are processed, one of each request.
            drawn: int64, tokens drawn last; read only where the host does not know them.
            at: where in ``drawn`` the token of each slice's request stands.
        """
        self._state.follow([part.request for part in parts], drawn, at)

    def draw(
        self,
        logits: torch.Tensor,
        sources: Sequence[int],
        parts: Sequence[Slice],
        masks: Mapping[Request, Words] | None = None,
        drafts: Mapping[Request, Sequence[int]] | None = None,
        parcel: Parcel | None = None,
    ) -> torch.Tensor:
        """One token per row, processed and drawn on the device; nothing waits for it.

        All that the rows need goes to the device in one copy, is applied in one launch, or two where there are masks,
        and drawn from by the sampling kernel.

        Args:
            logits: [all, vocab], any float type; not changed.
            sources: of each row its row of ``logits``.
            parts: slices that draw, one for each row; ``follow`` has seen those whose draws are processed. Several of
                a request that has drafts, which end behind its output and behind drafts.
            masks: packed masks of grammars.
            drafts: what is guessed to follow requests' outputs.
            parcel: what the caller wants sent along.

        Returns:
            [rows] int64
        """
        parcel = parcel or Parcel()
        masked = [i for i, part in enumerate(parts) if part.request in masks] if masks else []
        if masks and masked:
            mask = [parcel.add(np.array(masked)), parcel.add([masks[parts[i].request] for i in masked])]
        numbers = self._numbers(parcel, sources, parts, drafts or {})
        parcel.send(self._device)
        if not masked and not numbers.edited and list(sources) == list(range(len(parts))):
            rows = logits[: len(parts)]  # penalties alone: the sampling kernel's part
        else:
            rows = process_logits(logits, numbers.edits(self._state, self._patterns.before, self._patterns.last))
        if masked:
            apply_bitmask(rows, *(parcel[part] for part in mask))
        return draw(rows, numbers.rows(self._state), any(part.request.params.filters for part in parts))

    def _numbers(
        self,
        parcel: Parcel,
        sources: Sequence[int],
        parts: Sequence[Slice],
        drafts: Mapping[Request, Sequence[int]],
    ) -> DrawNumbers:
        owned = []
        for part in parts:
            ahead = drafts_before(part)
            if ahead:
                self._state.branch(part.request, drafts[part.request][:ahead])
            owned.append(self._state.of(part.request, ahead))
        banned = [part.request.stop_ids if masks_stops(part) else () for part in parts]
        remembering = [part.request for part, one in zip(parts, owned, strict=True) if one.history is not None]
        self._patterns = self._patterns.of(remembering, self._state)
        counts = iter(self._patterns.counts)
        patterns = [0 if one.history is None else next(counts) for one in owned]
        return DrawNumbers(parcel, parts, sources, owned, banned, patterns)


@dataclass(frozen=True)
class _Patterns:
    """The bad words of several tokens of some requests; kept until these change."""

    requests: tuple[Request, ...]
    counts: tuple[int, ...]  # how many each has
    before: torch.Tensor  # [patterns, width] int64: the tokens before its last one, on the right; negative: any
    last: torch.Tensor  # [patterns] int64

    def of(self, requests: Sequence[Request], state: LogitsState) -> _Patterns:
        """The patterns of these requests."""
        width = state.history.rows.shape[1]
        if self.requests == tuple(requests) and self.before.shape[1] == width:
            return self
        each = [[words for words in request.bad_words if len(words) > 1] for request in requests]
        words = list(chain.from_iterable(each))
        before = np.full((len(words), width), -1, np.int64)
        for row, sequence in zip(before, words, strict=True):
            row[width - len(sequence) + 1 :] = sequence[:-1]
        last = np.array([sequence[-1] for sequence in words], np.int64)
        on_device = (to_device(x, state.device) for x in (before, last))
        return _Patterns(tuple(requests), tuple(map(len, each)), *on_device)
