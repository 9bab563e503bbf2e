"""Prompts that came as embeddings: their rows take the place of those that token ids would look up."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.model.decoder import GivenRows
from engine.schedule.plan import Slice


def is_given(part: Slice) -> bool:
    """Whether the slice computes some of a prompt that came as embeddings."""
    return part.request.embeds is not None and part.start < len(part.request.prompt)


def given_rows(parts: Sequence[Slice], device: torch.device, dtype: torch.dtype) -> GivenRows | None:
    """Where the slices' given embeddings stand among their tokens, laid out in this order, and what they are.

    Returns:
        None where every token of the slices is looked up.
    """
    rows: list[int] = []
    values: list[torch.Tensor] = []
    at = 0
    for part in parts:
        if is_given(part):
            stop = min(part.stop, len(part.request.prompt))
            rows += range(at, at + stop - part.start)
            values.append(part.request.embeds[part.start : stop])
        at += part.stop - part.start
    if not rows:
        return None
    return GivenRows(torch.tensor(rows).to(device), torch.cat(values).to(device, dtype))
