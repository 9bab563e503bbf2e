"""n > 1: every completion is, to the bit, what its seed gives alone, whatever it shares and with whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine import LLM, SamplingParams
from engine.params import StructuredOutputsParams
from tests.engine.ask import outputs
from tests.engine.test_launched_ahead import ahead
from tests.engine.test_speculation import speculative

Limited = Callable[..., LLM]
PREEMPT = {"blocks": 14, "admission_control": False}
N = 3
KINDS: list[dict[str, Any]] = [
    {"temperature": 0.9, "logprobs": 2, "ignore_eos": True},
    {"temperature": 1.2, "top_p": 0.9, "prompt_logprobs": 1, "logprobs": 0},
    {"temperature": 0.8, "repetition_penalty": 1.3, "presence_penalty": 0.4, "logit_bias": {260: 4.0}, "logprobs": 1},
    {"temperature": 0.7, "top_k": 30, "stop": [" the", ","], "min_tokens": 2},
    {"temperature": 1.0, "structured_outputs": StructuredOutputsParams(regex="[a-z ]{4,30}"), "logprobs": 0},
]


@pytest.fixture(scope="module")
def work(prompts: list[list[int]]) -> list[tuple[list[int], SamplingParams]]:
    """Prompts that end at, before and behind the end of a block of 16."""
    lengths = (15, 16, 17, 40, 64)
    return [
        (prompts[20 + i][:length], SamplingParams(n=N, seed=100 * i, max_tokens=7, **KINDS[i]))
        for i, length in enumerate(lengths)
    ]


def essence(one: Any) -> Any:
    scores = one.logprobs and [dict(row) for row in one.logprobs]
    return tuple(one.token_ids), one.text, one.finish_reason, one.stop_reason, one.cumulative_logprob, scores


def run(llm: LLM, work: list[tuple[list[int], SamplingParams]]) -> list[Any]:
    results = outputs(llm, [prompt for prompt, _ in work], [params for _, params in work])
    assert all(output.error is None for output in results)
    return [([essence(one) for one in output.outputs], output.prompt_logprobs) for output in results]


@pytest.fixture(scope="module")
def alone(smol: LLM, work: list[tuple[list[int], SamplingParams]], limited: Limited) -> list[Any]:
    """Each completion as a request of its own, one after the other."""
    found = []
    for prompt, params in work:
        assert params.seed is not None
        llm = limited(smol, prefix_caching=False)
        each = [run(llm, [(prompt, replace(params, n=1, seed=params.seed + i))])[0] for i in range(N)]
        found.append(([completions[0] for completions, _ in each], each[0][1]))
    return found


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"prefix_caching": False},
        {"max_seqs": 2, "prefix_caching": False},
        {"max_seqs": 4, "max_tokens": 16},
        {"max_tokens": 4096, "chunked_prefill": False, "policy": "prefix_grouped"},
        {**PREEMPT, "max_tokens": 40},
        {**PREEMPT, "prefix_caching": False},
        {**PREEMPT, "prefix_caching": False, "swap_slots": 60},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "change", [lambda llm: llm, speculative, lambda llm: ahead(llm)[0]], ids=["", "ngram", "ahead"]
)
def test_each_completion_is_what_its_seed_gives_alone(
    smol: LLM, work: Any, alone: list[Any], limited: Limited, limits: dict[str, Any], change: Callable[[LLM], LLM]
) -> None:
    llm = change(limited(smol, **limits))
    assert run(llm, work) == alone
    stats, core = llm.stats(), llm._open.core
    assert (stats.preemptions > 0) == ("blocks" in limits)
    core.scheduler.check()  # type: ignore[union-attr]
    assert stats.kv_blocks_used == 0


def test_seeds_make_different_completions(alone: list[Any]) -> None:
    """Without this, completions that all draw the same token would pass everything above."""
    assert all(len({one[0] for one in completions}) > 1 for completions, _ in alone)


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize(("seats", "late"), [(8, 0), (2, 4)])
def test_a_prompt_is_computed_once(
    smol: LLM, limited: Limited, prompts: Any, caching: bool, seats: int, late: int
) -> None:
    """Tokens that another completion has computed count as cached, the last one of the prompt only where it is used."""
    prompt, n = prompts[22], 6  # 131 tokens
    llm = limited(smol, prefix_caching=caching, max_seqs=seats)
    (output,) = outputs(llm, [prompt], SamplingParams(n=n, seed=3, max_tokens=5, ignore_eos=True))
    stats = llm.stats()
    assert stats.computed_tokens == 131 + n * 4 + late
    assert (stats.prompt_tokens, stats.cached_tokens) == (n * 131, (n - 1) * 131 - late)
    assert stats.output_tokens == n * 5
    assert output.num_cached_tokens == 0, "the first one found nothing"
    kept = late > 0  # the block that late ones copy
    assert stats.peak_kv_blocks <= 8 + min(seats, n) + kept, "eight full blocks are held once"
