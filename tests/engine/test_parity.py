"""The engine against transformers, on the real weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from engine import LLM, RequestOutput, SamplingParams
from engine.model.files import resolve_model

NEW_TOKENS = 12
GREEDY = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
SCORED = SamplingParams(temperature=0, max_tokens=8, logprobs=5, prompt_logprobs=5)
WITH_LOGPROBS = (2, 12, 20, 26, 31)  # of the 32 prompts: 7, 30, 98, 238 and 500 tokens

Ids = list[int]


def generated(reference: Any, prompts: Sequence[Ids]) -> list[Ids]:
    """What transformers' ``generate`` adds to each prompt."""
    return [
        reference.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=2, pad_token_id=2
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]


@pytest.fixture(scope="module")
def expected(reference: Any, prompts: list[Ids]) -> list[Ids]:
    return generated(reference, prompts)


def run(llm: LLM, prompts: Sequence[Ids], params: SamplingParams = GREEDY) -> list[RequestOutput]:
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    assert all(output.error is None for output in outputs)
    return outputs


def token_ids(outputs: Sequence[RequestOutput]) -> list[Ids]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_prompts_are_what_the_tests_claim(prompts: list[Ids]) -> None:
    lengths = [len(prompt) for prompt in prompts]
    assert (len(lengths), min(lengths), max(lengths)) == (32, 5, 500)


def test_alone(smol: LLM, prompts: list[Ids], expected: list[Ids]) -> None:
    assert [token_ids(run(smol, [prompt]))[0] for prompt in prompts] == expected


def test_batched(limited: Callable[..., LLM], smol: LLM, prompts: list[Ids], expected: list[Ids]) -> None:
    llm = limited(smol)
    assert token_ids(run(llm, prompts)) == expected
    assert llm.stats().peak_running >= 16, "the prompts did run together"
    assert llm.stats().preemptions == 0


def test_chunks_of_16_tokens(limited: Callable[..., LLM], smol: LLM, prompts: list[Ids], expected: list[Ids]) -> None:
    llm = limited(smol, max_tokens=16)
    assert token_ids(run(llm, prompts)) == expected
    assert llm.stats().steps >= sum(map(len, prompts)) / 16


@pytest.mark.parametrize("caching", [True, False])
def test_cache_so_small_that_requests_are_preempted(
    limited: Callable[..., LLM], smol: LLM, prompts: list[Ids], expected: list[Ids], caching: bool
) -> None:
    llm = limited(smol, blocks=36, prefix_caching=caching, admission_control=False)
    outputs = run(llm, prompts)
    assert token_ids(outputs) == expected
    preemptions = llm.stats().preemptions
    assert preemptions > 0
    assert sum(output.metrics.preemptions for output in outputs if output.metrics) == preemptions
    assert llm.stats().kv_blocks_used == 0


@pytest.mark.parametrize("caching", [True, False])
def test_shared_prefix(
    limited: Callable[..., LLM], smol: LLM, prompts: list[Ids], reference: Any, caching: bool
) -> None:
    shared = prompts[25][:100]
    family = [shared + prompts[i] for i in (4, 9, 14)] + [shared]
    llm = limited(smol, prefix_caching=caching)
    outputs = run(llm, family[:1]) + run(llm, family[1:])
    assert token_ids(outputs) == generated(reference, family)
    assert [output.num_cached_tokens for output in outputs] == [0, 96, 96, 96] if caching else [0] * 4
    assert llm.stats().cached_tokens == (288 if caching else 0)


def test_common_beginning_is_computed_once_within_a_step(
    limited: Callable[..., LLM], smol: LLM, prompts: list[Ids]
) -> None:
    shared = (prompts[31] + prompts[30] + prompts[29])[:1000]
    family = [shared + prompts[i] for i in range(10)]
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=2, ignore_eos=True)

    def results(caching: bool) -> tuple[list[Any], int]:
        llm = limited(smol, prefix_caching=caching, max_tokens=4096, blocks=1024)
        outputs = run(llm, family, params)
        return [(o.outputs[0].token_ids, o.outputs[0].logprobs) for o in outputs], llm.stats().computed_tokens

    (cached, computed), (plain, everything) = results(True), results(False)
    assert cached == plain, "to the bit"
    assert everything - computed == 9 * (1000 // 16 * 16)


def logprobs_of(model: Any, ids: Ids) -> torch.Tensor:
    """[tokens, vocab] float32 log-probabilities of the token after each."""
    result: torch.Tensor = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return result


def differences(output: RequestOutput, exact: torch.Tensor) -> list[float]:
    """The output's log-probabilities, chosen and top, prompt and completion, less the exact ones."""
    assert output.prompt_logprobs is not None
    assert output.outputs[0].logprobs is not None
    assert output.prompt_logprobs[0] is None
    rows = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
    return [
        entry.logprob - exact[position, token].item()
        for position, row in enumerate(rows)
        if row is not None
        for token, entry in row.items()
    ]


def test_float32_logprobs(smol: LLM, prompts: list[Ids], reference: Any) -> None:
    for output in run(smol, [prompts[i] for i in WITH_LOGPROBS], SCORED):
        ids = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        off = differences(output, logprobs_of(reference, ids))
        assert len(off) >= 5 * (len(ids) - 1)
        assert max(map(abs, off)) < 1e-4


@pytest.fixture(scope="module")
def reference_bf16(reference: Any) -> Any:
    return copy.deepcopy(reference).bfloat16()


def test_bfloat16_logprobs_are_as_near_to_float32_as_transformers_own(
    smol_bf16: LLM, prompts: list[Ids], reference: Any, reference_bf16: Any
) -> None:
    """A bfloat16 logit near 16 is a multiple of 1/8, so single values differ by 0.1 between any two implementations;
    what an implementation can be held to is its mean distance from float32."""
    ours: list[float] = []
    theirs: list[float] = []
    for output in run(smol_bf16, [prompts[i] for i in WITH_LOGPROBS], SCORED):
        ids = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        exact, rounded = logprobs_of(reference, ids), logprobs_of(reference_bf16, ids)
        own = differences(output, exact)
        both = differences(output, rounded)
        ours += own
        theirs += [a - b for a, b in zip(own, both, strict=True)]  # rounded - exact, at the same tokens
    mean_ours, mean_theirs = (sum(map(abs, x)) / len(x) for x in (ours, theirs))
    assert mean_ours < 1.15 * mean_theirs
    assert abs(sum(ours) / len(ours)) < 2e-2, "no bias either way"


def test_bfloat16_tokens_differ_only_where_two_are_as_likely(
    smol_bf16: LLM, prompts: list[Ids], reference_bf16: Any
) -> None:
    chosen = prompts[::4]
    equal = 0
    for prompt, ours, theirs in zip(
        chosen, token_ids(run(smol_bf16, chosen)), generated(reference_bf16, chosen), strict=True
    ):
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        if at is None:
            assert ours == theirs
            equal += 1
            continue
        exact = logprobs_of(reference_bf16, prompt + theirs[:at])[-1]
        top = exact.topk(5).indices.tolist()
        assert ours[at] in top
        assert (exact[theirs[at]] - exact[ours[at]]).item() <= 0.25, "two steps of a bfloat16 logit near 16"
    assert equal >= len(chosen) // 3


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_minilm_embeddings(minilm: LLM, articles: list[str], batch: int) -> None:
    from transformers import AutoModel, AutoTokenizer

    texts = [" ".join(text.split()[: 3 + 2 * i]) for i, text in enumerate(articles[:60])]  # 3 to about 120 words
    folder = str(resolve_model("all-minilm-l6-v2").folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).float().eval()
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        rows.append(torch.nn.functional.normalize(model(**inputs).last_hidden_state[0].mean(0), dim=0))
    expected = torch.stack(rows)
    outputs = [o for i in range(0, 60, batch) for o in minilm.embed(texts[i : i + batch], use_tqdm=False)]
    got = torch.tensor([output.outputs.embedding for output in outputs])
    assert (got - expected).abs().max().item() < 1e-4
