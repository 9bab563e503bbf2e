"""The look-ups around a step, under Triton, against their definition in torch."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from kernels import step_inputs
from kernels.cuda import step_inputs as cuda
from kernels.step_inputs import RequestRows

ROWS, WIDTH, BLOCK = 9, 150, 4


def state(device: torch.device) -> RequestRows:
    draw = torch.Generator().manual_seed(1)
    return RequestRows(
        torch.randint(0, 500, (ROWS + 1, WIDTH), generator=draw, dtype=torch.int32).to(device),
        torch.randint(0, 99, (ROWS + 1,), generator=draw).to(device),
        torch.randint(0, 1 << 60, (ROWS + 1,), generator=draw).to(device),
        torch.randint(0, 50, (ROWS + 1,), generator=draw, dtype=torch.int32).to(device),
        torch.rand(3, ROWS + 1, generator=draw).to(device),
    )


def ints(device: torch.device, *values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def cpu(rows: RequestRows) -> RequestRows:
    return RequestRows(*(getattr(rows, field.name).cpu() for field in fields(rows)))


@pytest.mark.parametrize("mixed", [False, True])
def test_tokens(device: torch.device, mixed: bool) -> None:
    rows = state(device)
    positions, owners = ints(device, 599, 0, 17, 18, 19, 0), ints(device, 3, 8, 1, 1, 1, ROWS)
    ids, decoding = (ints(device, -1, -1, 5, 6, 7, 0), ints(device, 2)) if mixed else (None, None)
    capacity = 4 if mixed else 6
    got = cuda.token_inputs(rows, positions, owners, ids, decoding, capacity, BLOCK)
    host = [None if x is None else x.cpu() for x in (ids, decoding)]
    want = step_inputs.token_inputs(cpu(rows), positions.cpu(), owners.cpu(), host[0], host[1], capacity, BLOCK)
    assert torch.equal(got.tokens.cpu(), want.tokens)
    assert torch.equal(got.slots.cpu(), want.slots)
    assert torch.equal(got.contexts.cpu(), want.contexts)
    assert want.contexts.tolist() == ([600, 1, 0, 0] if mixed else [600, 1, 18, 19, 20, 0])
    assert want.slots[-1] == -1
    for i, context in enumerate(want.contexts.tolist()):
        used = -(-context // BLOCK)
        assert torch.equal(got.tables[i, :used].cpu(), want.tables[i, :used])


@pytest.mark.parametrize("gathered", [False, True])
def test_rows(device: torch.device, gathered: bool) -> None:
    rows = state(device)
    positions, owners = ints(device, 599, 0, 17, 18, 19, 0), ints(device, 3, 8, 1, 1, 1, ROWS)
    ends = ints(device, 0, 1, 4, -1) if gathered else None
    got = cuda.row_inputs(rows, positions, owners, ends)
    want = step_inputs.row_inputs(cpu(rows), positions.cpu(), owners.cpu(), None if ends is None else ends.cpu())
    for field in fields(want):
        assert torch.equal(getattr(got, field.name).cpu(), getattr(want, field.name)), field.name
    assert want.owners.tolist() == ([3, 8, 1, ROWS] if gathered else owners.tolist())
