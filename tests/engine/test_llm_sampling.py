"""Sampling fields, n and log-probabilities, on the real model: each test fails if its field is ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine import LLM, CompletionOutput, SamplingParams
from tests.engine.ask import LIST, PROMPT, complete, greedy, outputs


@pytest.fixture(scope="module")
def plain(smol: LLM) -> CompletionOutput:
    """What LIST goes on with, greedily and without a stop."""
    return complete(smol, ignore_eos=True)


# Sampling


@pytest.mark.parametrize(
    "fields",
    [{"repetition_penalty": 2.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}],
    ids=str,
)
def test_penalties_change_a_repetitive_text(smol: LLM, fields: dict[str, float]) -> None:
    prompt = "a b a b a b a b"
    before, after = (complete(smol, prompt, ignore_eos=True, **extra) for extra in ({}, fields))
    assert len(set(after.token_ids)) > len(set(before.token_ids))


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 0.001}], ids=str)
def test_narrow_sampling_is_greedy(smol: LLM, plain: CompletionOutput, fields: dict[str, Any]) -> None:
    tight = {"temperature": 1.0, "seed": 3, "ignore_eos": True}
    assert complete(smol, **(tight | fields)).token_ids == plain.token_ids
    assert complete(smol, **tight).token_ids != plain.token_ids


def test_seed_decides_the_draw(smol: LLM) -> None:
    texts = [tuple(complete(smol, temperature=1.0, seed=seed).token_ids) for seed in (1, 2, 1, -1, 2**64 + 5)]
    assert texts[0] == texts[2]
    assert len(set(texts)) == 4


def test_unseeded_run_repeats_in_a_new_engine(smol: LLM, limited: Callable[..., LLM]) -> None:
    params = SamplingParams(max_tokens=6)
    first, again = (
        [tuple(o.outputs[0].token_ids) for o in outputs(limited(smol), [PROMPT] * 4, params)] for _ in range(2)
    )
    assert first == again
    assert len(set(first)) > 1, "equal prompts draw different noise"


def test_n_children_have_seeds_in_a_row_and_share_the_prompts_blocks(
    smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]
) -> None:
    prompt = {"prompt_token_ids": prompts[22]}  # 131 tokens
    llm = limited(smol)
    (output,) = outputs(llm, prompt, SamplingParams(n=4, seed=7, max_tokens=6))
    assert [one.index for one in output.outputs] == [0, 1, 2, 3]
    used = llm.stats()
    assert used.peak_kv_blocks <= 9 + 3, "eight full blocks are held once"
    assert used.computed_tokens < 131 + 4 * 6 + 3 * 16
    single = [complete(smol, prompt, temperature=1.0, seed=7 + i, max_tokens=6) for i in range(4)]
    assert [one.token_ids for one in output.outputs] == [one.token_ids for one in single]


def test_n_children_score_the_prompt_once(smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]) -> None:
    prompt, llm = {"prompt_token_ids": prompts[22]}, limited(smol)
    (output,) = outputs(llm, prompt, SamplingParams(n=3, seed=7, max_tokens=3, prompt_logprobs=0))
    assert len(output.prompt_logprobs or ()) == 131
    assert llm.stats().computed_tokens < 2 * 131


def test_n_children_end_each_in_their_own_time(smol: LLM) -> None:
    (output,) = outputs(smol, LIST, SamplingParams(n=6, seed=1, max_tokens=10, stop=",", logprobs=0))
    assert len({len(one.token_ids) for one in output.outputs}) > 1
    for one in output.outputs:
        assert "," not in one.text
        assert one.logprobs is not None
        assert len(one.logprobs) == len(one.token_ids)


# Log-probabilities


def test_logprobs_hold_the_top_and_the_sampled_token(smol: LLM) -> None:
    one = complete(smol, temperature=1.5, seed=11, logprobs=3, max_tokens=16)
    assert one.logprobs is not None
    total, outside = 0.0, 0
    for token, row in zip(one.token_ids, one.logprobs, strict=True):
        ranks = [entry.rank for entry in row.values()]
        values = [entry.logprob for entry in row.values()]
        assert ranks[:3] == [1, 2, 3]
        assert values == sorted(values, reverse=True)
        assert token in row
        outside += row[token].rank > 3
        assert len(row) == (4 if row[token].rank > 3 else 3)
        assert row[token].decoded_token == smol.get_tokenizer().decode([token])
        total += row[token].logprob
    assert outside > 0, "at this temperature some tokens are unlikely ones"
    assert one.cumulative_logprob == pytest.approx(total)


def test_logprobs_do_not_change_the_tokens_and_come_only_if_asked(smol: LLM, plain: CompletionOutput) -> None:
    scored = complete(smol, logprobs=2, ignore_eos=True)
    assert scored.token_ids == plain.token_ids
    assert (plain.logprobs, plain.cumulative_logprob) == (None, None)
    whole = complete(smol, logprobs=-1, max_tokens=1)
    assert whole.logprobs is not None
    assert len(whole.logprobs[0]) == 49152


def test_prompt_logprobs_whatever_is_cached_or_cut(
    smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]
) -> None:
    prompt, params = {"prompt_token_ids": prompts[20]}, greedy(prompt_logprobs=2, max_tokens=2)
    (whole,) = outputs(smol, prompt, params)
    assert whole.prompt_logprobs is not None
    assert whole.prompt_logprobs[0] is None
    assert len(whole.prompt_logprobs) == len(prompts[20]) == 98
    for token, row in zip(prompts[20][1:], whole.prompt_logprobs[1:], strict=True):
        assert row is not None
        assert token in row
    for limits in ({"max_tokens": 7}, {"max_tokens": 40}, {}):
        llm = limited(smol, **limits)
        outputs(llm, prompt, greedy(max_tokens=1))  # the prompt is in the cache now
        (again,) = outputs(llm, prompt, params)
        assert again.prompt_logprobs == whole.prompt_logprobs
        assert again.num_cached_tokens == 0
    (one,) = outputs(smol, prompt, greedy(max_tokens=1))
    assert one.prompt_logprobs is None


def test_prompt_logprobs_survive_preemption(smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]) -> None:
    params = greedy(prompt_logprobs=1, max_tokens=20, ignore_eos=True)
    items = [{"prompt_token_ids": prompts[i]} for i in (16, 17, 18)]
    expected = [output.prompt_logprobs for output in outputs(limited(smol), items, params)]
    llm = limited(smol, blocks=13, admission_control=False)
    assert [output.prompt_logprobs for output in outputs(llm, items, params)] == expected
    assert llm.stats().preemptions > 0
