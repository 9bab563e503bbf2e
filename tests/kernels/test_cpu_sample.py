"""The CPU's draw against the definition by sorting, its noise against the exact one, and rows on their own."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numba
import numpy as np
import pytest
import torch

from kernels.cpu.noise import NOISE_ERROR, nearby_noise, philox
from kernels.noise import philox as exact_philox
from kernels.noise import to_gumbel
from kernels.sample import SamplingRows, draw, reference


def random_rows(count: int, vocab: int, generator: torch.Generator) -> SamplingRows:
    """Each parameter is off in about half of the rows; one row in eight is greedy."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    def maybe(value: torch.Tensor, off: float) -> torch.Tensor:
        return torch.where(uniform(0, 1) < 0.5, value, torch.tensor(off, dtype=value.dtype))

    return SamplingRows(
        temperature=torch.where(uniform(0, 1) < 0.125, 0.0, uniform(0.2, 2)),
        top_k=maybe(uniform(0, 1).pow(6).mul(vocab + 50).int() + 1, 0),
        top_p=maybe(uniform(0.01, 1), 1),
        min_p=maybe(uniform(0, 1).pow(5), 0),
        seeds=torch.randint(0, 2**62, (count,), generator=generator),
        positions=torch.randint(0, 2**20, (count,), generator=generator),
    )


def some(rows: SamplingRows, at: Any) -> SamplingRows:
    return replace(
        rows, **{f.name: getattr(rows, f.name)[at] for f in fields(rows) if getattr(rows, f.name) is not None}
    )


@pytest.mark.parametrize("vocab", [1, 7, 1000, 8193])
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0, 300.0])
def test_tokens_are_those_of_the_definition(vocab: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(64, vocab, generator=generator) * spread
    logits[8:24, 1:] = logits[8:24, 1:].masked_fill(torch.rand(16, vocab - 1, generator=generator) < 0.5, float("-inf"))
    logits[24:40] = logits[24:40].bfloat16().float()  # many equals
    rows = random_rows(64, vocab, generator)
    assert draw(logits, rows, True).tolist() == reference(logits, rows).tokens.tolist()


def test_penalties_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(48, 1003, generator=generator) * 3
    logits[:, :50] = float("-inf")
    rows = replace(
        random_rows(48, 1003, generator),
        occurrences=torch.randint(0, 6, (50, 1003), dtype=torch.int32, generator=generator),
        states=torch.randperm(50, generator=generator)[:48].int(),
        presence=torch.rand(48, generator=generator) * 4 - 2,
        frequency=torch.rand(48, generator=generator) * 4 - 2,
        repetition=torch.rand(48, generator=generator) + 0.5,
    )
    expected = reference(logits, rows).tokens.tolist()
    assert draw(logits, rows, True).tolist() == expected
    assert expected != reference(logits, replace(rows, occurrences=None)).tokens.tolist()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, rows = torch.randn(40, 5003, generator=generator), random_rows(40, 5003, generator)
    together = draw(logits, rows, True)
    order = torch.randperm(40, generator=generator)
    assert torch.equal(draw(logits[order], some(rows, order), True), together[order])
    for row in range(40):
        assert draw(logits[row : row + 1], some(rows, slice(row, row + 1)), True).tolist() == [together[row]]


def test_equal_logits_keep_all_that_the_filter_touches() -> None:
    logits = torch.zeros(300, 900)
    logits[:, 10:14] = 5.0
    base = random_rows(300, 900, torch.Generator().manual_seed(1))
    rows = replace(base, temperature=torch.ones(300), min_p=torch.zeros(300), top_p=torch.ones(300))
    for two in (
        replace(rows, top_k=torch.full((300,), 2, dtype=torch.int32)),
        replace(rows, top_k=torch.zeros(300, dtype=torch.int32), top_p=torch.full((300,), 0.2)),
        replace(rows, top_k=torch.zeros(300, dtype=torch.int32), min_p=torch.full((300,), 0.5)),
    ):
        assert set(draw(logits, two, True).tolist()) == {10, 11, 12, 13}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_without_a_distribution_give_a_token(value: float) -> None:
    logits = torch.full((4, 100), value)
    rows = random_rows(4, 100, torch.Generator().manual_seed(2))
    assert draw(logits, rows, True).tolist() == [0] * 4
    logits[:, 1:] = 1.0
    drawn = draw(logits, rows, True)
    assert ((drawn >= 0) & (drawn < 100)).all()


@numba.njit
def _nearby(words: Any, out: Any) -> None:
    for i in range(words.size):
        out[i] = nearby_noise(words[i])


def test_nearby_noise_is_as_near_as_it_says() -> None:
    draws = np.random.default_rng(0).integers(0, 2**32, 1 << 20)
    edges = np.concatenate([np.arange(1 << 14), 2**32 - 1 - np.arange(1 << 14), 2 ** np.arange(32)])
    words = np.concatenate([draws, edges]).astype(np.uint32)
    got = np.empty(words.size, np.float32)
    _nearby(words, got)
    exact = to_gumbel(torch.from_numpy(words.astype(np.int64))).numpy()
    assert np.abs(got - exact).max() < NOISE_ERROR / 10


@numba.njit
def _words(seed: Any, position: Any, counters: int) -> Any:
    low = np.uint64(0xFFFFFFFF)
    found = np.empty((counters, 4), np.int64)
    for i in range(counters):
        words = philox(np.uint64(i), position, seed & low, seed >> np.uint64(32))
        for j in range(4):
            found[i, j] = words[j]
    return found


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (2**62 + 12345, 2**20), (2**63 - 1, 131071)])
def test_words_are_those_of_the_definition(seed: int, position: int) -> None:
    exact = exact_philox(torch.tensor([seed]), torch.tensor([position]), 300)
    assert _words(np.uint64(seed), np.uint64(position), 300).ravel().tolist() == exact[0].tolist()
