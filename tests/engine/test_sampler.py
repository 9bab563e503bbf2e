"""The sampler against one that is written to be read: float64, one row at a time, noise from Philox in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from engine.execute.sampler import raw_logprobs, sample
from engine.params import SamplingParams
from engine.schedule.request import Request
from kernels.noise import gumbel

VOCAB = 40
Row = np.ndarray[Any, np.dtype[np.float64]]


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox-4x32-10 as in Salmon et al. 2011, table 2 and section 3."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k0, second & 0xFFFFFFFF, (first >> 32) ^ c[3] ^ k1, first & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def noise(seed: int, position: int, vocab: int) -> Row:
    words = [
        word
        for block in range(-(-vocab // 4))
        for word in philox((block, position, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    ]
    return np.array([-math.log(-math.log1p(-(word + 0.5) / 2**32)) for word in words[:vocab]])


def request(index: int = 0, prompt: Sequence[int] = (1,), output: Sequence[int] = (), **fields: Any) -> Request:
    stop_ids = fields.pop("stop_ids", frozenset())
    params = SamplingParams(max_tokens=None, **fields)
    return Request(
        index=index,
        prompt=list(prompt),
        output=list(output),
        params=params,
        max_output=99,
        stop_ids=stop_ids,
        seed=params.seed or 0,
    )


def processed(logits: np.ndarray[Any, Any], one: Request) -> Row:
    """The contract's order: min_tokens, penalties, temperature, min_p, top_k, top_p; -inf for what is left out."""
    params, row = one.params, logits.astype(np.float64)
    if len(one.output) < params.min_tokens:
        for token in one.stop_ids:
            row[token] = -np.inf
    for token in set(one.prompt) | set(one.output):
        row[token] *= 1 / params.repetition_penalty if row[token] > 0 else params.repetition_penalty
    for token in set(one.output):
        row[token] -= one.output.count(token) * params.frequency_penalty + params.presence_penalty
    if params.greedy:
        return row
    row /= params.temperature
    likeliest = row.max()
    row = np.array([x if math.exp(x - likeliest) >= params.min_p else -np.inf for x in row])
    order = np.argsort(-row, kind="stable")
    if params.top_k > 0:
        row[order[params.top_k :]] = -np.inf
    shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    covered = 0.0
    for token in order:
        if covered >= params.top_p:
            row[token] = -np.inf
        covered += shares[token]
    return row


def draw(logits: np.ndarray[Any, Any], one: Request) -> int:
    row = processed(logits, one)
    return int(np.argmax(row if one.params.greedy else row + noise(one.seed, one.total, len(row))))


def random_request(rng: np.random.Generator, index: int) -> Request:
    """Each parameter is at its default in half of the requests."""

    def maybe(value: Any, plain: Any) -> Any:
        return value if rng.random() < 0.5 else plain

    return request(
        index,
        prompt=rng.integers(0, VOCAB, rng.integers(1, 20)).tolist(),
        output=rng.integers(0, VOCAB // 4, rng.integers(0, 12)).tolist(),
        stop_ids=frozenset(rng.integers(0, VOCAB, 3).tolist()),
        temperature=maybe(float(rng.uniform(0.3, 2)), rng.choice([0.0, 1.0]).item()),
        top_p=maybe(float(rng.uniform(0.1, 1)), 1.0),
        top_k=maybe(int(rng.integers(1, VOCAB + 5)), rng.choice([0, -1]).item()),
        min_p=maybe(float(rng.uniform(0, 0.5)), 0.0),
        repetition_penalty=maybe(float(rng.uniform(0.5, 2)), 1.0),
        presence_penalty=maybe(float(rng.uniform(-2, 2)), 0.0),
        frequency_penalty=maybe(float(rng.uniform(-2, 2)), 0.0),
        min_tokens=maybe(6, 0),
        seed=int(rng.integers(0, 2**62)),
    )


@pytest.mark.parametrize("batch", [1, 16, 200])
def test_tokens_equal_the_reference(batch: int) -> None:
    rng = np.random.default_rng(batch)
    requests = [random_request(rng, i) for i in range(400)]
    logits = rng.normal(0, 3, (400, VOCAB)).astype(np.float32)
    before = logits.copy()
    tokens: list[int] = []
    for first in range(0, 400, batch):
        rows = torch.from_numpy(logits[first : first + batch])
        tokens += [one.token for one in sample(rows, requests[first : first + batch])]
    assert tokens == [draw(row, one) for row, one in zip(logits, requests, strict=True)]
    assert np.array_equal(logits, before), "the logits given are left as they were"


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


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 1.7, "top_k": 7, "top_p": 0.9},
        {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    ],
    ids=str,
)
def test_draws_have_the_distribution(fields: dict[str, Any]) -> None:
    draws, vocab = 6000, 12
    logits = np.random.default_rng(5).normal(0, 1.2, vocab).astype(np.float32)
    requests = [request(output=[2, 2, 3], seed=seed, **fields) for seed in range(draws)]
    row = processed(logits, requests[0])
    shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    drawn = sample(torch.from_numpy(logits).expand(draws, -1), requests)
    counts = np.bincount([one.token for one in drawn], minlength=vocab)
    allowed = shares > 0
    assert not counts[~allowed].any()
    freedom = allowed.sum() - 1
    statistic = ((counts - draws * shares)[allowed] ** 2 / (draws * shares)[allowed]).sum()
    assert statistic < freedom + 6 * math.sqrt(2 * freedom), "chi-squared far out in its tail (p well under 1e-4)"


def test_ties_go_to_the_lower_id() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 3.0, 1.0]])
    assert sample(logits, [request(temperature=0)])[0].token == 1
    assert {sample(logits, [request(top_k=2, seed=seed)])[0].token for seed in range(60)} == {1, 2}
    assert sample(logits, [request(temperature=0, min_tokens=1, stop_ids=frozenset({1}))])[0].token == 2


def test_min_tokens_masks_stop_ids_until_there_are_enough() -> None:
    logits = torch.tensor([[0.0, 9.0, 8.0, 1.0]])
    for length, expected in ((0, 3), (2, 3), (3, 1)):
        one = request(output=[0] * length, temperature=0, min_tokens=3, stop_ids=frozenset({1, 2}))
        assert sample(logits, [one])[0].token == expected


def test_repetition_penalty_counts_the_prompt_and_the_other_two_do_not() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0]])
    assert sample(logits, [request(prompt=[0], temperature=0, repetition_penalty=1.5)])[0].token == 1
    assert sample(logits, [request(prompt=[0], temperature=0, presence_penalty=2, frequency_penalty=2)])[0].token == 0
    assert sample(logits, [request(output=[0], temperature=0, presence_penalty=0.6)])[0].token == 1
    assert sample(logits, [request(output=[0, 0], temperature=0, frequency_penalty=0.3)])[0].token == 1
    assert sample(logits, [request(output=[0], temperature=0, frequency_penalty=0.3)])[0].token == 0


@pytest.mark.parametrize("count", [0, 1, 5, -1, 1000])
def test_logprobs_are_of_the_unprocessed_distribution(count: int) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (8, VOCAB)).astype(np.float32)
    requests = [
        request(output=[4, 4], logprobs=count, temperature=0.6, top_k=3, presence_penalty=1, seed=i) for i in range(8)
    ]
    for row, one in zip(logits, sample(torch.from_numpy(logits), requests), strict=True):
        exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
        order = np.argsort(-exact, kind="stable")[: VOCAB if count < 0 else count]
        assert one.logprobs is not None
        assert one.logprobs.token == one.token
        assert one.logprobs.logprob == pytest.approx(exact[one.token], abs=1e-5)
        assert one.logprobs.rank == 1 + (exact > exact[one.token]).sum()
        assert [token for token, _ in one.logprobs.top] == order.tolist()
        assert [value for _, value in one.logprobs.top] == pytest.approx(exact[order].tolist(), abs=1e-5)


def test_only_those_who_ask_get_logprobs() -> None:
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0))
    drawn = sample(logits, [request(logprobs=2), request(), request(temperature=0)])
    assert [one.logprobs is None for one in drawn] == [False, True, True]


def test_equal_logits_share_a_rank() -> None:
    row = raw_logprobs(torch.tensor([1.0, 2.0, 2.0, 0.0]), 2, 1)
    assert row.rank == 1
    assert raw_logprobs(torch.tensor([1.0, 2.0, 2.0, 0.0]), 0, 1).rank == 3
