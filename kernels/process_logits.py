"""What requests add to their logits and rule out of them, for all rows of a step together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

NEVER = float("-inf")


@dataclass(frozen=True)
class LogitsEdits:
    """What becomes of rows of logits, in this order; all on the logits' device.

    ``tokens`` are ruled out as they are; row i's are ``tokens[token_begins[i] : token_begins[i + 1]]``. A pattern rules
    out its last token where the tokens before it are those that the row's history ends with; row i's are those from
    ``pattern_begins[i]`` on, before ``pattern_begins[i + 1]``.
    """

    sources: torch.Tensor  # [rows] int32: the row of logits that each one starts from
    offset_rows: torch.Tensor  # [rows] int32: what is added to it, a row of ``offsets``; negative: nothing
    offsets: torch.Tensor  # [states, vocab] float32
    token_begins: torch.Tensor  # [rows + 1] int32
    tokens: torch.Tensor  # [tokens] int32
    history_rows: torch.Tensor  # [rows] int32: the row of ``history``; read only for rows with patterns
    history: torch.Tensor  # [states, width] int64: tokens drawn last, the latest on the right
    pattern_begins: torch.Tensor  # [rows + 1] int32
    before: torch.Tensor  # [patterns, width] int64: tokens before the last one, on the right; negative: any
    last: torch.Tensor  # [patterns] int64


def process_logits(logits: torch.Tensor, edits: LogitsEdits) -> torch.Tensor:
    """New rows, [rows, vocab] float32: offsets added, then -inf for tokens that are ruled out.

    Args:
        logits: [all, vocab], any float type; not changed.
        edits: of each row.
    """
    if logits.is_cuda:
        from kernels.cuda import process_logits as cuda

        return cuda.process_logits(logits, edits)
    return reference(logits, edits)


def reference(logits: torch.Tensor, edits: LogitsEdits) -> torch.Tensor:
    """The definition in torch."""
    out = logits[edits.sources].float()
    (changed,) = (edits.offset_rows >= 0).nonzero(as_tuple=True)
    if changed.numel():
        out[changed] += edits.offsets[edits.offset_rows[changed]]
    if edits.tokens.numel():
        out[_owners(edits.token_begins), edits.tokens] = NEVER
    if edits.last.numel():
        owners = _owners(edits.pattern_begins)
        recent = edits.history[edits.history_rows[owners]]  # [patterns, width]
        complete = ((recent == edits.before) | (edits.before < 0)).all(-1)
        out[owners[complete], edits.last[complete]] = NEVER
    return out


def _owners(begins: torch.Tensor) -> torch.Tensor:
    """The row that each entry of a list belongs to, [entries] int64."""
    return torch.repeat_interleave(begins.diff())
