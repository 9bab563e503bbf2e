"""The noise: its definition, its distribution, and what it depends on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernels.noise import gumbel
from tests.engine.reference_sampler import noise, philox


def test_reference_philox_gives_the_published_answers() -> None:
    """Known answers of the authors' Random123 library, kat_vectors."""
    assert philox((0,) * 4, (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    counter, key = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert philox(counter, key) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (1, 5), (2**62 + 12345, 2**20), (2**63 - 1, 131071)])
def test_noise_equals_the_reference(seed: int, position: int) -> None:
    got = gumbel(torch.tensor([seed]), torch.tensor([position]), 1001)[0].double().numpy()
    assert np.abs(got - noise(seed, position, 1001)).max() < 2e-6 * 20


def test_noise_depends_on_seed_position_and_token_only() -> None:
    seeds, positions = torch.arange(50) % 7, torch.arange(50) % 11
    batch = gumbel(seeds, positions, 1003)
    for row in range(50):
        alone = gumbel(seeds[row : row + 1], positions[row : row + 1], 2000)[0, :1003]
        assert torch.equal(batch[row], alone)
    assert len({tuple(row) for row in batch.tolist()}) == len({*zip(seeds.tolist(), positions.tolist(), strict=True)})


def test_noise_is_finite_for_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite noise would make a token certain: with a vocabulary of 49,152, a wrong token in every 340."""
    words = [0, 1, 2**23, 2**24 - 1, 2**24, 2**31, *(2**32 - 2**i for i in range(10))]
    monkeypatch.setattr("kernels.noise.philox", lambda *_: torch.tensor([sorted(words)]))
    values = gumbel(torch.tensor([0]), torch.tensor([0]), len(words))[0]
    assert torch.isfinite(values).all()
    assert values.sort(descending=True).values.tolist() == values.tolist()
    assert values[0] > 22
    assert values[-1] < -2.8


def test_noise_has_the_gumbel_distribution() -> None:
    values = gumbel(torch.arange(64), torch.zeros(64, dtype=torch.int64), 1 << 15).flatten()
    for point in (-1.5, 0.0, 2.0, 6.0, 10.0):
        expected = -math.expm1(-math.exp(-point))  # P(noise > point)
        count = values.numel() * expected
        assert abs((values > point).sum().item() - count) < 6 * math.sqrt(count) + 1
