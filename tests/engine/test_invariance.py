"""A row's tokens and log-probabilities are the same to the bit, whatever runs beside it and however it is cut up.

Assumed, and measured on x86 with AVX-512: a row of oneDNN's packed product does not depend on the number of rows (from
``MIN_ROWS`` on), nor one of torch's softmax or sum. Attention, norms, rotation and noise are Galley's own and do not
depend on it by construction (see tests/kernels).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from engine import LLM, RequestOutput, SamplingParams

COMPARED = 24  # requests whose outputs are compared; the rest up to 64 run beside them
NEW_TOKENS = 5
PREEMPT = {"admission_control": False}


@dataclass(frozen=True)
class Case:
    prompt: list[int]
    params: SamplingParams


@pytest.fixture(scope="module")
def cases(prompts: list[list[int]]) -> list[Case]:
    """64 requests of 5 to 90 tokens: greedy and seeded in turn, some with prompt_logprobs, four with one beginning."""
    result = []
    for i in range(64):
        source = prompts[(i * 7) % 32] if i % 16 else prompts[30][: 40 + i]
        sampled: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": i} if i % 2 else {"temperature": 0}
        scored = 1 if i % 8 == 5 else None
        params = SamplingParams(max_tokens=NEW_TOKENS, logprobs=2, prompt_logprobs=scored, ignore_eos=True, **sampled)
        result.append(Case(source[:90], params))
    return result


def fingerprint(output: RequestOutput) -> Any:
    """All that must not change: tokens and exact log-probabilities."""
    assert output.error is None
    (completion,) = output.outputs
    assert completion.logprobs is not None
    assert len(completion.token_ids) == NEW_TOKENS
    return (
        completion.token_ids,
        completion.cumulative_logprob,
        [dict(row) for row in completion.logprobs],
        [row and dict(row) for row in output.prompt_logprobs or ()],
    )


def run(llm: LLM, cases: Sequence[Case]) -> list[Any]:
    prompts: list[Any] = [{"prompt_token_ids": case.prompt} for case in cases]
    outputs = llm.generate(prompts, [case.params for case in cases], use_tqdm=False)
    return [fingerprint(output) for output in outputs]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def base(request: pytest.FixtureRequest) -> LLM:
    llm: LLM = request.getfixturevalue("smol" if request.param == "float32" else "smol_bf16")
    return llm


@pytest.fixture(scope="module")
def alone(base: LLM, cases: list[Case], limited: Callable[..., LLM]) -> list[Any]:
    llm = limited(base, prefix_caching=False)
    return [run(llm, [case])[0] for case in cases[:COMPARED]]


@pytest.mark.parametrize("size", [2, 7])
def test_small_batches(base: LLM, cases: list[Case], alone: list[Any], limited: Callable[..., LLM], size: int) -> None:
    llm = limited(base)
    assert [one for i in range(0, COMPARED, size) for one in run(llm, cases[i : min(i + size, COMPARED)])] == alone


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({}, id="batch of 64"),
        pytest.param({"max_tokens": 16, "max_seqs": 13}, id="chunks of 16"),
        pytest.param({"max_tokens": 4096, "chunked_prefill": False, "prefix_caching": False}, id="no chunks, no cache"),
        pytest.param({"blocks": 18, **PREEMPT}, id="preemption"),
        pytest.param(
            {"blocks": 18, "prefix_caching": False, "max_tokens": 50, **PREEMPT}, id="preemption, recomputed in chunks"
        ),
        pytest.param({"blocks": 18, "swap_slots": 100, **PREEMPT}, id="preemption, swapped"),
        pytest.param({"blocks": 18, "swap_slots": 100, "prefix_caching": False, **PREEMPT}, id="swapped, uncached"),
        pytest.param({"blocks": 18}, id="admission control"),
        pytest.param({"blocks": 40, "policy": "prefix_grouped"}, id="prefix_grouped"),
    ],
)
def test_shuffled_among_64(
    base: LLM, cases: list[Case], alone: list[Any], limited: Callable[..., LLM], limits: dict[str, Any]
) -> None:
    order = list(range(64))
    random.Random(str(limits)).shuffle(order)
    llm = limited(base, **limits)
    outputs = dict(zip(order, run(llm, [cases[i] for i in order]), strict=True))
    assert [outputs[i] for i in range(COMPARED)] == alone
    stats = llm.stats()
    assert (stats.preemptions > 0) == (limits.get("admission_control") is False)
    swaps = limits.get("swap_slots", 0) > 0
    assert (stats.swapped_out > 0) == swaps
    assert stats.swapped_in <= stats.swapped_out, "what the prefix cache still has need not come back"
    assert (stats.recomputed_tokens > 0) == (stats.preemptions > 0 and not swaps)
    assert (stats.cached_tokens > 0) == limits.get("prefix_caching", True)


def test_again_from_the_prefix_cache(
    base: LLM, cases: list[Case], alone: list[Any], limited: Callable[..., LLM]
) -> None:
    llm = limited(base)
    assert run(llm, cases[:COMPARED]) == alone
    before = llm.stats().cached_tokens
    assert run(llm, cases[:COMPARED]) == alone
    assert llm.stats().cached_tokens - before > 400


def test_seeds_make_different_texts(smol: LLM, cases: list[Case]) -> None:
    """Without this, tokens that ignore the seed would pass everything above."""
    prompt: list[Any] = [{"prompt_token_ids": cases[1].prompt}] * 8
    params = [SamplingParams(max_tokens=8, seed=seed) for seed in range(8)]
    texts = {tuple(output.outputs[0].token_ids) for output in smol.generate(prompt, params, use_tqdm=False)}
    assert len(texts) > 4


@pytest.mark.parametrize("size", [2, 9])
def test_embeddings(minilm: LLM, articles: list[str], size: int) -> None:
    texts = [" ".join(text.split()[: 2 + 3 * i]) for i, text in enumerate(articles[:18])]
    alone = [minilm.embed(text, use_tqdm=False)[0].outputs.embedding for text in texts]
    batched = [o for i in range(0, 18, size) for o in minilm.embed(texts[i : i + size], use_tqdm=False)]
    assert [output.outputs.embedding for output in batched] == alone
