"""Draws the next token of every sequence of a step on the CPU.

``logits_processing`` says what happens to logits before the draw, ``kernels.sample`` how temperature, ``min_p``,
``top_k``, ``top_p`` and the noise make a token of them. Log-probabilities come from the logits before all of that.
Every row is computed from its own logits, parameters and (seed, position) alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from engine.execute.logits_processing import LogitsProcessor, Words, is_processed
from engine.schedule.plan import Slice
from engine.schedule.request import Request
from kernels.sample import SamplingRows, draw


class Sampler:
    """Draws tokens for a runner that has the whole output of every request on the host."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._processor = LogitsProcessor(vocab_size, device)
        self._device = device

    def draw(
        self,
        logits: torch.Tensor,
        parts: Sequence[Slice],
        masks: Mapping[Request, Words] | None = None,
        drafts: Mapping[Request, Sequence[int]] | None = None,
    ) -> torch.Tensor:
        """One token per row.

        Args:
            logits: [parts, vocab] float32; not changed.
            parts: slices that draw; several of a request that has drafts.
            masks: packed masks of grammars, by request.
            drafts: what is guessed to follow requests' outputs.

        Returns:
            [parts] int64
        """
        masks = masks or {}
        chosen = [i for i, part in enumerate(parts) if is_processed(part) or part.request in masks]
        if not chosen:
            return self._draw_plain(logits, parts)
        special = [parts[i] for i in chosen]
        self._follow([part for part in special if is_processed(part)])
        drawn = self._processor.draw(logits, chosen, special, masks, drafts)
        if len(chosen) == len(parts):
            return drawn
        others = sorted(set(range(len(parts))).difference(chosen))
        tokens = torch.empty(len(parts), dtype=torch.int64, device=self._device)
        tokens[chosen] = drawn
        tokens[others] = self._draw_plain(logits[others], [parts[i] for i in others])
        return tokens

    def _draw_plain(self, logits: torch.Tensor, parts: Sequence[Slice]) -> torch.Tensor:
        if all(part.request.params.greedy for part in parts):
            return logits.argmax(-1)
        rows, filtered = self._rows(parts)
        return draw(logits, rows, filtered)

    def _follow(self, parts: Sequence[Slice]) -> None:
        parts = list({part.request: part for part in parts}.values())
        nothing = torch.empty(0, dtype=torch.int64, device=self._device)
        self._processor.follow(parts, nothing, [0] * len(parts))  # the host knows all tokens

    def _rows(self, parts: Sequence[Slice]) -> tuple[SamplingRows, bool]:
        """What the draw depends on beside the logits, and whether any row has filters."""
        params = [part.request.params for part in parts]
        floats = torch.tensor([(p.temperature, p.top_p, p.min_p) for p in params], dtype=torch.float32)
        ints = torch.tensor([(max(p.request.params.top_k, 0), p.request.seed, p.stop) for p in parts])
        temperature, top_p, min_p = floats.T.contiguous().to(self._device)
        top_k, seeds, positions = ints.T.contiguous().to(self._device)
        filtered = any(p.filters for p in params)
        return SamplingRows(temperature, top_k.int(), top_p, min_p, seeds, positions), filtered
