"""Tokens and log-probabilities with speculation are those without, to the bit, whatever the limits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from engine import LLM, RequestOutput, SamplingParams
from engine.generation import GenerationCore
from engine.speculate.config import SpeculativeConfig
from engine.speculate.proposer import Proposer
from tests.engine.ask import outputs

Limited = Callable[..., LLM]
Work = tuple[list[list[int]], list[SamplingParams]]
NGRAM = SpeculativeConfig(method="ngram", num_speculative_tokens=6, prompt_lookup_min=1)
PREEMPT = {"blocks": 18, "admission_control": False}


def speculative(llm: LLM, config: SpeculativeConfig = NGRAM) -> LLM:
    core = llm._open.core
    assert isinstance(core, GenerationCore)
    core._proposer = Proposer(config)
    return llm


@pytest.fixture(scope="module")
def work(smol: LLM, articles: list[str]) -> Work:
    """36 requests with texts that repeat themselves, so that drafts are often right: every way to draw and to end."""
    tokenizer, draw = smol.get_tokenizer(), random.Random(3)
    common = [tokenizer(text)["input_ids"][0] for text in (" of", " and", ",")]
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "logprobs": 2},
        {"temperature": 0.0, "stop": [" the", ". "]},
        {"temperature": 0.7, "top_p": 0.9, "logprobs": 0},
        {"temperature": 0.0, "stop_token_ids": common, "logprobs": 1},
        {"temperature": 0.4, "top_k": 20, "n": 2},
        {"temperature": 0.0, "repetition_penalty": 1.1, "logprobs": 1, "prompt_logprobs": 1},
        {"temperature": 0.3, "min_p": 0.05, "frequency_penalty": 0.2, "stop": ["."]},
        {"temperature": 0.0, "min_tokens": 4, "stop_token_ids": common},
        {"temperature": 0.0, "ignore_eos": True},
    ]
    prompts, params = [], []
    for i in range(36):
        words = draw.choice(articles).split()
        at = draw.randrange(max(1, len(words) - 12))
        phrase = " ".join(words[at : at + draw.randint(4, 9)])
        prompts.append(tokenizer(f"{phrase}. {phrase}. {' '.join(phrase.split()[:2])}")["input_ids"][:90])
        params.append(SamplingParams(max_tokens=draw.randint(4, 24), seed=i, **kinds[i % len(kinds)]))
    return prompts, params


def essence(results: Sequence[RequestOutput]) -> list[Any]:
    return [
        [
            (c.token_ids, c.text, c.finish_reason, c.stop_reason, c.cumulative_logprob, c.logprobs and [*c.logprobs])
            for c in output.outputs
        ]
        + [output.prompt_logprobs]
        for output in results
    ]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def base(request: pytest.FixtureRequest) -> LLM:
    llm: LLM = request.getfixturevalue("smol" if request.param == "float32" else "smol_bf16")
    return llm


@pytest.fixture(scope="module")
def plain(base: LLM, work: Work, limited: Limited) -> list[Any]:
    return essence(outputs(limited(base), *work))


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({}, id="batch"),
        pytest.param({"max_seqs": 1}, id="alone"),
        pytest.param({"max_seqs": 5, "max_tokens": 16}, id="chunks"),
        pytest.param({"prefix_caching": False, "chunked_prefill": False, "max_tokens": 4096}, id="uncached"),
        pytest.param(PREEMPT, id="recompute"),
        pytest.param({"swap_slots": 100, "prefix_caching": False, **PREEMPT}, id="swap"),
        pytest.param({"blocks": 18}, id="admission control"),
        pytest.param({"draft_room": 9, "max_seqs": 4}, id="little room"),
        pytest.param({"policy": "prefix_grouped", "blocks": 40}, id="prefix_grouped"),
    ],
)
def test_nothing_changes(base: LLM, work: Work, plain: list[Any], limited: Limited, limits: dict[str, Any]) -> None:
    order = list(range(len(work[0])))
    random.Random(str(limits)).shuffle(order)
    llm = speculative(limited(base, **{"draft_room": 500, **limits}))
    found = outputs(llm, [work[0][i] for i in order], [work[1][i] for i in order])
    assert dict(zip(order, essence(found), strict=True)) == dict(enumerate(plain))
    stats = llm.stats()
    assert stats.accepted_tokens > 20, "drafts were right"
    assert stats.accepted_tokens < stats.drafted_tokens, "drafts were wrong"
    assert stats.output_tokens == sum(len(c.token_ids) for output in found for c in output.outputs)
    assert (stats.preemptions > 0) == (limits.get("admission_control") is False)
    assert (stats.swapped_out > 0) == ("swap_slots" in limits)
    core = llm._open.core
    assert isinstance(core, GenerationCore)
    core.scheduler.check()
    assert core.scheduler.kv.pool.held == 0


def test_two_engines_one_with_a_speculative_config(smol: LLM, work: Work) -> None:
    """Through the arguments, and fewer steps than tokens."""
    prompt = smol.get_tokenizer()("one two three four five six. " * 4)["input_ids"]
    params = SamplingParams(temperature=0, max_tokens=40)
    with LLM(smol.args.model, dtype="float32", speculative_config={"num_speculative_tokens": 4}) as llm:
        (found,) = outputs(llm, [prompt], [params])
        stats = llm.stats()
    (expected,) = outputs(smol, [prompt], [params])
    assert essence([found]) == essence([expected])
    assert stats.drafts > 3
    assert stats.accepted_tokens > 20
    assert stats.steps <= 41 - stats.accepted_tokens
    assert stats.acceptance_rate == stats.accepted_tokens / stats.drafted_tokens > 0.8
    assert stats.mean_accepted_length == 1 + stats.accepted_tokens / stats.drafts


def test_text_that_never_repeats_is_hardly_drafted(smol: LLM, limited: Limited) -> None:
    """Drafts that are always wrong come ever more rarely."""
    prompt = smol.get_tokenizer()("a b a c a d a e a f a g a h a")["input_ids"]
    params = SamplingParams(temperature=3.0, max_tokens=90, seed=1, ignore_eos=True)
    llm = speculative(limited(smol, draft_room=500))
    outputs(llm, [prompt], [params])
    assert 0 < llm.stats().drafts < 25
