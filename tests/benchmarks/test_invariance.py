"""The comparison to the bit: all its cases on the CPU, and that it sees what it is there to see."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.gpu_invariance import cost_ratios, verdicts
from benchmarks.gpu_workloads import write_model
from benchmarks.invariance import Case, Outcome, SharedWeights, Work, cases, differences, requests, unmet

REFERENCE = Case("reference")
LENGTH = 512


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> SharedWeights:
    model = write_model(
        "llama1b", tmp_path_factory.mktemp("models"), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=32000,
    )  # fmt: skip
    return SharedWeights(str(model), device="cpu", max_model_len=LENGTH, kv_cache_memory_bytes=20_000_000)


@pytest.fixture(scope="module")
def work() -> list[Work]:
    return requests(40, longest=80, shortest_output=6)


@pytest.fixture(scope="module")
def expected(weights: SharedWeights, work: list[Work]) -> Outcome:
    return weights.run(work, REFERENCE)


@pytest.mark.parametrize("case", cases(LENGTH), ids=lambda case: case.name)
def test_equal_to_the_bit(weights: SharedWeights, work: list[Work], expected: Outcome, case: Case) -> None:
    if weights.missing(case):
        pytest.skip(f"no argument {weights.missing(case)}")
    got = weights.run(work, case)
    found = differences(got, expected, case)
    assert found["requests"] == (8 if case.how == "alone" else min(case.count or 40, 40))
    assert (found["tokens_differ"], found["logprobs_differ"]) == (0, 0)
    if case.name != "prefix caching on":  # all of this work may fit one step, which has nothing to share yet
        assert unmet(got, case) is None


def test_answers_are_complete(work: list[Work], expected: Outcome) -> None:
    assert sorted(expected.answers) == list(range(len(work)))
    for number, (tokens, logprobs) in expected.answers.items():
        assert len(tokens) == len(logprobs) == work[number].params.max_tokens
        assert all(-40 < value < 0 for value in logprobs)
    assert len({tokens for tokens, _ in expected.answers.values()}) == len(work)


@pytest.fixture
def varying(weights: SharedWeights) -> Iterator[None]:
    """A head whose results depend, by some units in the last place, on how many rows it is given."""
    assert weights.decoder is not None
    head: Any = weights.decoder.head

    def uneven(hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(hidden).float()
        return logits * (1 + 1e-6 * len(hidden))

    weights.decoder.head = uneven  # type: ignore[assignment]
    yield
    weights.decoder.head = head


def test_variance_is_seen(weights: SharedWeights, work: list[Work], varying: None) -> None:
    case = Case("max_num_seqs 3", {"max_num_seqs": 3})
    found = differences(weights.run(work, case), weights.run(work, REFERENCE), case)
    assert found["logprobs_differ"] > 30
    assert found["tokens_differ"] < 5


def test_what_did_not_happen_is_told(weights: SharedWeights, work: list[Work]) -> None:
    case = Case("no accident", must_see=("preemptions",))
    assert unmet(weights.run(work[:3], case), case) == "no preemptions happened"
    bad = Outcome({0: ((5,), (float("nan"),))}, {"preemptions": 1}, 0.0)
    assert unmet(bad, case) == "a log-probability is not finite"


def test_verdicts() -> None:
    """Equal rows pass; a difference, a missing accident and a comparison that sees nothing are named."""
    equal = {"event": "case", "model": "m", "part": "equal", "case": "c", "tokens_differ": 0, "logprobs_differ": 0}
    varied = equal | {"part": "variance", "logprobs_differ": 9}
    options = Namespace(models="m", parts="equal,variance")
    assert verdicts([equal, varied], options) == []
    assert verdicts([equal | {"logprobs_differ": 2}, varied], options) == ["m, equal, c: 0 / 2 requests differ"]
    assert verdicts([equal | {"reason": "no swaps happened"}, varied], options) == ["m, equal, c: no swaps happened"]
    assert "none seen" in verdicts([equal, varied | {"logprobs_differ": 0}], options)[0]


def test_cost_leaves_the_first_repeat_of_each_process_out() -> None:
    row = {"event": "repeat", "model": "m", "workload": "decode"}
    rates = [(True, 0, 1.0), (True, 1, 99.0), (False, 0, 1.0), (False, 1, 100.0), (True, 1, 97.0), (False, 1, 100.0)]
    rows = [row | {"batch_invariant": on, "repeat": n, "output_tokens_s": rate} for on, n, rate in rates]
    (found,) = cost_ratios("m", rows)
    assert found["ratio"] == pytest.approx(0.98)
