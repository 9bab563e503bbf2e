"""What is kept of the tokens drawn for a request, brought forward by one token on the device."""

from __future__ import annotations

import torch


def add_drawn_tokens(drawn: torch.Tensor, rows: torch.Tensor, occurrences: torch.Tensor, history: torch.Tensor) -> None:
    """Count a token for each request, in place, and put it at the right end of its history.

    Args:
        drawn: int64, tokens drawn last; those not named by ``rows`` are not read.
        rows: [4, requests] int32: where in ``drawn`` the token stands; the token itself where it is known, else a
            negative number; the request's row of ``occurrences`` and that of ``history``, negative where it has none.
            No two requests have the same row.
        occurrences: [states, vocab] int32, twice the number of times that a token was drawn, plus something.
        history: [states, width] int64.
    """
    if drawn.is_cuda:
        from kernels.cuda import drawn_tokens as cuda

        cuda.add_drawn_tokens(drawn, rows, occurrences, history)
    else:
        reference(drawn, rows, occurrences, history)


def reference(drawn: torch.Tensor, rows: torch.Tensor, occurrences: torch.Tensor, history: torch.Tensor) -> None:
    """The same in torch."""
    at, known, counting, keeping = rows.long()
    pending = known < 0
    tokens = known.clone()
    tokens[pending] = drawn[at[pending]]
    counted, kept = counting >= 0, keeping >= 0
    occurrences[counting[counted], tokens[counted]] += 2
    mine = keeping[kept]
    history[mine] = torch.cat((history[mine, 1:], tokens[kept][:, None]), 1)
