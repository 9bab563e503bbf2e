"""From a step's few numbers per token and the rows of request state to what the model and the sampler take."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RequestRows:
    """State of running requests, a row each; the last row belongs to nobody and pads batches."""

    tables: torch.Tensor  # [rows, blocks] int32
    last: torch.Tensor  # [rows] int64: the token drawn last
    seeds: torch.Tensor  # [rows] int64
    top_k: torch.Tensor  # [rows] int32
    floats: torch.Tensor  # [3, rows] float32: temperature, top_p, min_p


@dataclass(frozen=True)
class TokenInputs:
    """What the model takes: the first ``len(contexts)`` tokens may be decoding ones, those with a context are."""

    tokens: torch.Tensor  # [tokens] int64
    slots: torch.Tensor  # [tokens] int64; -1 for padding
    contexts: torch.Tensor  # [decoding] int32, the token itself included; 0 for others
    tables: torch.Tensor  # [decoding, blocks] int32


@dataclass(frozen=True)
class RowInputs:
    """What the sampler takes, each [rows], and where the rows' hidden states and request state are."""

    ends: torch.Tensor  # int64: which token the row continues
    owners: torch.Tensor  # int64
    temperature: torch.Tensor  # float32
    top_k: torch.Tensor  # int32
    top_p: torch.Tensor  # float32
    min_p: torch.Tensor  # float32
    seeds: torch.Tensor  # int64
    positions: torch.Tensor  # int64, of the token to be drawn


def token_inputs(
    rows: RequestRows,
    positions: torch.Tensor,
    owners: torch.Tensor,
    ids: torch.Tensor | None,
    decoding: torch.Tensor | None,
    capacity: int,
    block_size: int,
) -> TokenInputs:
    """Look up each token's id and place in the cache.

    Args:
        rows: request state.
        positions: [tokens] int32.
        owners: [tokens] int32, row of each token's request; the last row for padding.
        ids: [tokens] int32, negative where the token is the one that the row drew last; None where all are.
        decoding: [1] int32, tokens at the front that decode; None where all but padding do.
        capacity: most tokens that decode.
        block_size: of the cache.
    """
    if positions.is_cuda:
        from kernels.cuda import step_inputs as cuda

        return cuda.token_inputs(rows, positions, owners, ids, decoding, capacity, block_size)
    used = owners < rows.last.shape[0] - 1
    tokens = rows.last[owners]
    if ids is not None:
        tokens = torch.where(ids < 0, tokens, ids)
    slots = rows.tables[owners, positions // block_size].long() * block_size + positions % block_size
    decodes = used[:capacity] if decoding is None else torch.arange(capacity) < decoding
    contexts = torch.where(decodes, positions[:capacity] + 1, 0)
    return TokenInputs(
        tokens=torch.where(used, tokens, 0),  # padding computes on anything, so its token may be none
        slots=torch.where(used, slots, -1),
        contexts=contexts,
        tables=rows.tables[owners[:capacity]],
    )


def row_inputs(
    rows: RequestRows, positions: torch.Tensor, owners: torch.Tensor, ends: torch.Tensor | None
) -> RowInputs:
    """Look up what each row's draw depends on.

    Args:
        rows: request state.
        positions: [tokens] int32.
        owners: [tokens] int32.
        ends: [rows] int32, the token that each row continues, negative for padding; None where every token is a row.
    """
    if positions.is_cuda:
        from kernels.cuda import step_inputs as cuda

        return cuda.row_inputs(rows, positions, owners, ends)
    padding = rows.last.shape[0] - 1
    ends = torch.arange(len(owners), dtype=torch.int32) if ends is None else ends
    at = ends.clamp(min=0).long()
    mine = torch.where(ends >= 0, owners[at], padding).long()
    temperature, top_p, min_p = rows.floats[:, mine]
    return RowInputs(
        at, mine, temperature, rows.top_k[mine], top_p, min_p, rows.seeds[mine], positions[at].long() + 1
    )  # fmt: skip
