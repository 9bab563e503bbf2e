"""The fused sampler against the definition by sorting, and its independence of the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.cuda.sample import sample
from kernels.sample import SamplingRows, reference

VOCAB = 5003
ROWS = 6


def parameters(device: torch.device, rows: int = ROWS) -> SamplingRows:
    """No filter, temperatures from greedy to 1.5."""

    def full(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((rows,), value, dtype=dtype, device=device)

    return SamplingRows(
        temperature=torch.linspace(0, 1.5, rows, device=device),
        top_k=full(0, torch.int32),
        top_p=full(1),
        min_p=full(0),
        seeds=torch.arange(rows, device=device) * 2**33 + 7,
        positions=torch.arange(rows, device=device) * 100 + 3,
    )


def logits(device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1)) * 3).to(device, dtype)


def agree(x: torch.Tensor, rows: SamplingRows, filtered: bool) -> None:
    got, wanted = sample(x, rows, filtered), reference(x, rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()
    torch.testing.assert_close(got.logprobs, wanted.logprobs, rtol=1e-5, atol=1e-5)
    assert got.ranks.tolist() == wanted.ranks.tolist()


def test_without_filters(device: torch.device) -> None:
    agree(logits(device), parameters(device), filtered=False)


@pytest.mark.parametrize("field", ["top_k", "top_p", "min_p"])
def test_one_filter(field: str, device: torch.device) -> None:
    values = {
        "top_k": torch.tensor([3, 1, 7, 50, 0, VOCAB + 9], dtype=torch.int32),
        "top_p": torch.tensor([0.5, 0.1, 0.9, 0.99, 1.0, 0.001]),
        "min_p": torch.tensor([0.5, 0.01, 0.0, 1.0, 0.1, 0.001]),
    }
    agree(logits(device), replace(parameters(device), **{field: values[field].to(device)}), filtered=True)


def test_all_filters_and_penalties(device: torch.device) -> None:
    seen = torch.randint(0, 6, (ROWS + 2, VOCAB), dtype=torch.int32, generator=torch.Generator().manual_seed(2))
    rows = replace(
        parameters(device),
        top_k=torch.tensor([9, 40, 0, 300, 20, 5], dtype=torch.int32, device=device),
        top_p=torch.tensor([0.7, 0.8, 0.95, 0.5, 1.0, 0.9], device=device),
        min_p=torch.tensor([0.0, 0.02, 0.1, 0.0, 0.001, 0.3], device=device),
        presence=torch.linspace(-1, 1, ROWS, device=device),
        frequency=torch.linspace(0.5, -0.5, ROWS, device=device),
        repetition=torch.linspace(0.8, 1.3, ROWS, device=device),
        states=torch.tensor([7, 0, 3, 2, 5, 1], dtype=torch.int32, device=device),
        occurrences=seen.to(device),
    )
    agree(logits(device), rows, filtered=True)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_large_vocabularies_flat_and_peaked(spread: float, device: torch.device) -> None:
    """Flat rows have more candidates than there is room for, and are searched whole."""
    x = (torch.randn(3, 20011, generator=torch.Generator().manual_seed(3)) * spread).to(device)
    rows = parameters(device, 3)
    rows = replace(
        rows,
        temperature=torch.full((3,), 0.9, device=device),
        top_k=torch.tensor([0, 700, 15000], dtype=torch.int32, device=device),
        top_p=torch.tensor([0.95, 0.9, 0.8], device=device),
        min_p=torch.tensor([0.0, 0.0, 0.01], device=device),
    )
    agree(x, rows, filtered=True)


def test_equal_logits_go_to_the_lowest_token_when_greedy(device: torch.device) -> None:
    x = torch.zeros(2, VOCAB, device=device)
    x[0, [4999, 4100, 4500]] = 2.0
    rows = parameters(device, 2)
    rows = replace(rows, temperature=torch.zeros_like(rows.temperature))
    assert sample(x, rows, filtered=False).tokens.tolist() == [4100, 0]


def test_top_k_keeps_equals_of_its_last_token(device: torch.device) -> None:
    x = torch.full((ROWS, VOCAB), -9.0, device=device)
    x[:, 10:14] = 1.0
    rows = replace(parameters(device), temperature=torch.ones(ROWS, device=device))
    rows = replace(rows, top_k=torch.full((ROWS,), 2, dtype=torch.int32, device=device))
    drawn = {
        token
        for shift in range(4)
        for token in sample(x, replace(rows, positions=rows.positions + shift), filtered=True).tokens.tolist()
    }
    assert drawn <= {10, 11, 12, 13}
    assert len(drawn) > 2


def test_forbidden_tokens_are_never_drawn(device: torch.device) -> None:
    x = torch.full((ROWS, VOCAB), float("-inf"), device=device)
    x[:, 4321] = -50.0
    result = sample(x, parameters(device), filtered=False)
    assert result.tokens.tolist() == [4321] * ROWS
    assert result.logprobs.tolist() == [0.0] * ROWS


def test_a_row_does_not_depend_on_its_neighbours(device: torch.device) -> None:
    x = logits(device, torch.bfloat16)
    rows = replace(parameters(device), top_p=torch.full((ROWS,), 0.9, device=device))
    together = sample(x, rows, filtered=True)
    order = torch.tensor([4, 2], device=device)
    fields = ("temperature", "top_k", "top_p", "min_p", "seeds", "positions")
    some = sample(x[order], SamplingRows(**{f: getattr(rows, f)[order] for f in fields}), filtered=True)
    assert torch.equal(some.tokens, together.tokens[order])
    assert torch.equal(some.logprobs, together.logprobs[order])
