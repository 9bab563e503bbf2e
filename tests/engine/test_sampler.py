"""The sampler against ``reference_sampler``: tokens, masks, distributions, and independence of the batch."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch

from engine.execute.sampler import Sampler
from engine.schedule.request import Request
from tests.engine.reference_sampler import draw, processed, shares
from tests.engine.sampler_requests import CPU, VOCAB, random_grammars, random_request, request, sample


@pytest.mark.parametrize("batch", [1, 16, 200])
def test_tokens_equal_the_reference(batch: int) -> None:
    """Random mixtures of all fields, a third of them with a grammar's mask."""
    rng = np.random.default_rng(batch)
    requests = [random_request(rng, i) for i in range(400)]
    grammars = random_grammars(rng, requests)
    logits = rng.normal(0, 3, (400, VOCAB)).astype(np.float32)
    before = logits.copy()
    possible = [
        np.isfinite(processed(row, one, grammars.get(one)).max()) for row, one in zip(logits, requests, strict=True)
    ]
    assert sum(possible) > 350
    tokens: list[int] = []
    for first in range(0, 400, batch):
        some = requests[first : first + batch]
        batch_logits = torch.from_numpy(logits[first : first + batch])
        tokens += sample(batch_logits, some, {one: grammars[one] for one in some if one in grammars})
    assert np.array_equal(logits, before), "the logits given are left as they were"
    for row, one, token, can in zip(logits, requests, tokens, possible, strict=True):
        assert token == (draw(row, one, grammars.get(one)) if can else 0), one


def test_state_follows_the_output_token_by_token() -> None:
    """One sampler over whole outputs, requests coming, going, being preempted: each step as the reference has it."""
    rng = np.random.default_rng(9)
    requests = [random_request(rng, i) for i in range(24)]
    sampler = Sampler(VOCAB, CPU)
    for step in range(30):
        running = [one for one in requests if rng.random() < 0.8]
        for one in requests:
            if rng.random() < 0.05:
                one.preemptions += 1
        logits = rng.normal(0, 3, (len(running), VOCAB)).astype(np.float32)
        tokens = sample(torch.from_numpy(logits), running, sampler=sampler)
        for row, one, token in zip(logits, running, tokens, strict=True):
            if np.isfinite(processed(row, one).max()):
                assert token == draw(row, one), (step, one)
            one.output.append(token)


def statistic_is_plausible(counts: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    """Pearson's chi-squared over the tokens that can be drawn, rare ones together; far in the tail is below 1e-6."""
    common = expected >= 5
    seen, due = [*counts[common], counts[~common].sum()], [*expected[common], expected[~common].sum()]
    if due[-1] < 5:
        seen, due = seen[:-1], due[:-1]
    statistic = sum((a - b) ** 2 / b for a, b in zip(seen, due, strict=True))
    freedom = max(len(due) - 1, 1)
    return bool(statistic < freedom + 6 * math.sqrt(2 * freedom) + 12)


def check_distribution(logits: np.ndarray[Any, Any], one: Request, grammar: Collection[int] | None, draws: int) -> None:
    """Draw the same request with many seeds."""
    again = []
    for seed in range(draws):
        copy = request(seed, one.prompt, one.output, stop_ids=one.stop_ids, bad_words=one.bad_words)
        copy.params, copy.seed = one.params, seed
        again.append(copy)
    grammars = None if grammar is None else dict.fromkeys(again, grammar)
    counts = np.bincount(sample(torch.from_numpy(logits).expand(draws, -1), again, grammars), minlength=VOCAB)
    expected = draws * shares(processed(logits, one, grammar))
    assert not counts[expected == 0].any(), "a token that is masked is never drawn"
    assert statistic_is_plausible(counts, expected), (one, counts, expected)


def test_draws_of_random_mixtures_have_the_distribution() -> None:
    rng = np.random.default_rng(17)
    checked = 0
    for index in range(60):
        one = random_request(rng, index)
        grammar = random_grammars(rng, [one]).get(one)
        logits = rng.normal(0, 1.2, VOCAB).astype(np.float32)
        row = processed(logits, one, grammar)
        if one.params.greedy or not np.isfinite(row.max()):
            continue
        checked += 1
        check_distribution(logits, one, grammar, 3000)
    assert checked > 30


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
        {"logit_bias": {2: 1.5, 5: -1.0}},
        {"allowed_token_ids": [1, 2, 3, 9]},
        {"bad_words": [(4,), (2, 3, 7), (2, 2, 8)]},
        {"min_tokens": 4, "stop_ids": frozenset({0, 6})},
    ],
    ids=str,
)
def test_draws_have_the_distribution(fields: dict[str, Any]) -> None:
    logits = np.random.default_rng(5).normal(0, 1.2, VOCAB).astype(np.float32)
    check_distribution(logits, request(output=[2, 2, 3], **fields), None, 6000)


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"allowed_token_ids": [3, 9]}, True),
        ({"logit_bias": {5: 50.0}}, True),
        ({"bad_words": [(2, 3, 4), (4,)]}, True),
        ({"bad_words": [(3, 3, 4)]}, False),
        ({"min_tokens": 4, "stop_ids": frozenset({4})}, True),
        ({"min_tokens": 3, "stop_ids": frozenset({4})}, False),
    ],
    ids=str,
)
def test_masks_and_biases_change_what_is_likeliest(fields: dict[str, Any], changed: bool) -> None:
    logits = np.linspace(0, 1, VOCAB).astype(np.float32)
    logits[4] = 8.0
    one = request(output=[2, 2, 3], temperature=0.0, **fields)
    (token,) = sample(torch.from_numpy(logits)[None], [one])
    assert (token != 4) == changed
    assert token == draw(logits, one)


def test_rows_do_not_depend_on_the_batch() -> None:
    """The same requests in other company and order draw the same tokens."""
    rng = np.random.default_rng(4)
    requests = [random_request(rng, i) for i in range(120)]
    grammars = random_grammars(rng, requests)
    logits = torch.from_numpy(rng.normal(0, 3, (120, VOCAB)).astype(np.float32))
    alone = [
        sample(logits[i : i + 1], [one], {k: v for k, v in grammars.items() if k is one})[0]
        for i, one in enumerate(requests)
    ]
    for _ in range(5):
        order = rng.permutation(120)[: rng.integers(2, 120)]
        some = [requests[i] for i in order]
        together = sample(logits[order], some, {one: grammars[one] for one in some if one in grammars})
        assert together == [alone[i] for i in order]


def test_ties_go_to_the_lower_id_and_filters_keep_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 3.0, 1.0]])
    assert sample(logits, [request(temperature=0)]) == [1]
    assert {sample(logits, [request(top_k=2, seed=seed)])[0] for seed in range(60)} == {1, 2, 3}
    assert sample(logits, [request(temperature=0, min_tokens=1, stop_ids=frozenset({1}))]) == [2]


def test_min_tokens_masks_stop_ids_until_there_are_enough() -> None:
    logits = torch.tensor([[0.0, 9.0, 8.0, 1.0]])
    for length, expected in ((0, 3), (2, 3), (3, 1)):
        one = request(output=[0] * length, temperature=0, min_tokens=3, stop_ids=frozenset({1, 2}))
        assert sample(logits, [one]) == [expected]


def test_repetition_penalty_counts_the_prompt_and_the_other_two_do_not() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0]])
    assert sample(logits, [request(prompt=[0], temperature=0, repetition_penalty=1.5)]) == [1]
    assert sample(logits, [request(prompt=[0], temperature=0, presence_penalty=2, frequency_penalty=2)]) == [0]
    assert sample(logits, [request(output=[0], temperature=0, presence_penalty=0.6)]) == [1]
    assert sample(logits, [request(output=[0, 0], temperature=0, frequency_penalty=0.3)]) == [1]
    assert sample(logits, [request(output=[0], temperature=0, frequency_penalty=0.3)]) == [0]


def test_bias_comes_before_the_penalties_and_masks_hold_whatever_is_added() -> None:
    logits = torch.tensor([[2.0, 0.0, 3.5]])
    bias = {"logit_bias": {0: 2.0}, "repetition_penalty": 2.0}
    assert sample(logits, [request(prompt=[0, 2], temperature=0, **bias)]) == [0], (
        "4 / 2 > 3.5 / 2; 2 / 2 + 2 is more too"
    )
    low = {"logit_bias": {0: -3.0}, "repetition_penalty": 4.0}  # (2 - 3) * 4 = -4, not 2 / 4 - 3 = -2.5
    assert sample(torch.tensor([[2.0, -3.0]]), [request(prompt=[0], temperature=0, **low)]) == [1]
    assert sample(logits, [request(temperature=0, logit_bias={0: 100}, allowed_token_ids=[1, 2])]) == [2]
    assert sample(logits, [request(temperature=0, logit_bias={0: 100}, bad_words=[(0,)])]) == [2]


def test_a_grammar_alone_masks_tokens() -> None:
    """The seam of structured outputs: a packed mask for some rows, in words of 32 tokens."""
    logits = torch.arange(70.0).expand(3, -1)
    requests = [request(i, temperature=0) for i in range(3)]
    assert sample(logits, requests, {requests[0]: {5, 31, 32}, requests[2]: {0, 31}}) == [32, 69, 31]
    drawn = {sample(logits[:1] * 0, [one], {one: {3, 64, 69}})[0] for one in (request(seed=s) for s in range(40))}
    assert drawn == {3, 64, 69}
