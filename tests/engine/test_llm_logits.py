"""Fields that change logits, on the real model: each test fails if its field is ignored; and that seeds repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine import LLM, SamplingParams
from engine.text.inputs import InputError
from tests.engine.ask import LIST, PROMPT, complete, greedy, outputs

Limited = Callable[..., LLM]


def ids_of(llm: LLM, text: str) -> list[int]:
    return llm.get_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_logit_bias_makes_and_breaks_a_token(smol: LLM) -> None:
    plain = complete(smol, PROMPT, max_tokens=4).token_ids
    (wanted,) = ids_of(smol, " banana")
    assert set(complete(smol, PROMPT, max_tokens=4, logit_bias={wanted: 100}).token_ids) == {wanted}
    assert plain[0] not in complete(smol, PROMPT, max_tokens=4, logit_bias={str(plain[0]): -100}).token_ids
    assert complete(smol, PROMPT, max_tokens=4, logit_bias={wanted: 0.0}).token_ids == plain


def test_logit_bias_shifts_odds_by_its_exponential(smol: LLM) -> None:
    """Between two tokens, and log-probabilities stay those of the model."""
    a, b = ids_of(smol, " yes")[0], ids_of(smol, " no")[0]
    fields = {"max_tokens": 1, "temperature": 1.0, "allowed_token_ids": [a, b], "logprobs": -1}
    first = complete(smol, PROMPT, seed=1, **fields).logprobs
    assert first is not None
    gap = first[0][a].logprob - first[0][b].logprob
    params = [SamplingParams(seed=i, logit_bias={b: gap}, **(fields | {"logprobs": 1})) for i in range(400)]
    drawn = [output.outputs[0] for output in outputs(smol, [PROMPT] * 400, params)]
    share = sum(one.token_ids[0] == a for one in drawn) / 400
    assert 0.38 < share < 0.62, "even odds"
    for one in drawn:
        assert one.logprobs is not None
        assert one.logprobs[0][one.token_ids[0]] == first[0][one.token_ids[0]]


def test_allowed_token_ids_are_all_that_is_drawn(smol: LLM) -> None:
    allowed = [ids_of(smol, text)[0] for text in (" Paris", " London", ".")]
    for seed in range(8):
        one = complete(smol, PROMPT, temperature=1.5, seed=seed, allowed_token_ids=allowed, ignore_eos=True)
        assert set(one.token_ids) <= set(allowed)
    assert complete(smol, PROMPT, max_tokens=1, allowed_token_ids=allowed[1:]).token_ids[0] in allowed[1:]


@pytest.mark.parametrize("words", [[" five"], ["five"], [" four, five"], ["two, three, four"]], ids=str)
def test_bad_words_do_not_come_up(smol: LLM, words: list[str]) -> None:
    prompt = "one, two, three, four, five, one, two, three, four, five, one,"
    plain = complete(smol, prompt, max_tokens=20, ignore_eos=True)
    assert words[0].strip() in plain.text
    changed = complete(smol, prompt, max_tokens=20, ignore_eos=True, bad_words=words)
    assert words[0].strip() not in changed.text
    assert changed.token_ids != plain.token_ids


def test_bad_words_are_looked_for_in_the_output_alone(smol: LLM) -> None:
    """The prompt ends with the word's first token: the second may follow all the same."""
    first, second = complete(smol, PROMPT, max_tokens=2).token_ids
    tokenizer = smol.get_tokenizer()
    word = tokenizer.decode([first, second])
    assert complete(smol, PROMPT, max_tokens=2, bad_words=[word]).token_ids[0] == first
    assert complete(smol, PROMPT, max_tokens=2, bad_words=[word]).token_ids[1] != second
    longer = {"prompt_token_ids": [*tokenizer(PROMPT)["input_ids"], first]}
    assert complete(smol, longer, max_tokens=1, bad_words=[word]).token_ids == [second]


def test_min_tokens_masks_every_stop_id(smol: LLM) -> None:
    """A stop id, and the end of sequence, which a bias makes certain as soon as it may come."""
    plain = complete(smol, ignore_eos=True).token_ids
    stop = plain[1]
    assert len(complete(smol, stop_token_ids=[stop]).token_ids) == 2
    longer = complete(smol, stop_token_ids=[stop], min_tokens=5).token_ids
    assert stop not in longer[:5]
    eos = smol.get_tokenizer().eos_token_id
    for least in (0, 3):
        ended = complete(smol, logit_bias={eos: 100}, min_tokens=least)
        assert (len(ended.token_ids), ended.finish_reason) == (least + 1, "stop")
        assert ended.token_ids[:least] == plain[:least]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"allowed_token_ids": [5, 49152]}, "allowed_token_ids id 49152 is not in the vocabulary.*0 to 49151"),
        ({"logit_bias": {49152: 1}}, "logit_bias id 49152 is not in the vocabulary.*0 to 49151"),
        ({"allowed_token_ids": [2], "min_tokens": 3, "stop_token_ids": [2]}, "min_tokens=3 rules out"),
        ({"bad_words": ["a \ud800"]}, r"bad_words.*U\+D800"),
    ],
    ids=str,
)
def test_bad_fields_are_that_requests_error(smol: LLM, fields: dict[str, Any], message: str) -> None:
    params = [greedy(max_tokens=1), greedy(max_tokens=4, **fields), greedy(max_tokens=1)]
    results = outputs(smol, [PROMPT] * 3, params)
    assert [result.error is None for result in results] == [True, False, True]
    with pytest.raises(InputError, match=message):
        smol.generate(PROMPT, params[1], use_tqdm=False, on_error="raise")


def test_nothing_left_of_the_allowed_tokens_is_an_error(smol: LLM) -> None:
    (token,) = ids_of(smol, " Paris")
    (result,) = outputs(smol, PROMPT, greedy(allowed_token_ids=[token], bad_words=["Paris"]))
    assert "bad_words rule out every one of allowed_token_ids" in (result.error or "")


# Seeds


def mixed(llm: LLM) -> list[SamplingParams]:
    """Every field in some request, all of them in the last; n=2 in one."""
    comma, the = ids_of(llm, ",")[0], ids_of(llm, " the")[0]
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.9, "top_p": 0.8, "logit_bias": {comma: 3.0}},
        {"temperature": 1.2, "min_p": 0.02, "bad_words": [" the", "of the", "one two"]},
        {"temperature": 0.7, "top_k": 40, "repetition_penalty": 1.3, "n": 2},
        {"temperature": 1.0, "presence_penalty": -1.0, "frequency_penalty": 0.5, "min_tokens": 4},
        {"temperature": 0.0, "allowed_token_ids": [comma, the, *range(200, 900)]},
        {"temperature": 1.0},
        {
            "temperature": 1.1, "top_k": 500, "top_p": 0.95, "min_p": 0.001, "repetition_penalty": 1.1, "logprobs": 2,
            "presence_penalty": 0.2, "frequency_penalty": 0.2, "min_tokens": 3, "logit_bias": {comma: -1, the: 2},
            "bad_words": ["of the"], "allowed_token_ids": list(range(3, 20000)), "stop_token_ids": [the],
        },
    ]  # fmt: skip
    return [SamplingParams(seed=100 + i, max_tokens=10, **kinds[i % len(kinds)]) for i in range(21)]


def essence(results: list[Any]) -> list[Any]:
    return [[(one.token_ids, one.cumulative_logprob, one.finish_reason) for one in each.outputs] for each in results]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_seqs": 3},
        {"max_tokens": 16},
        {"blocks": 14, "block_size": 8, "admission_control": False},
        {"blocks": 14, "block_size": 8, "admission_control": False, "swap_slots": 60},
    ],
    ids=str,
)
def test_seeded_requests_repeat_bitwise(
    smol: LLM, limited: Limited, prompts: list[list[int]], limits: dict[str, Any]
) -> None:
    items, params = [{"prompt_token_ids": prompts[i % 20]} for i in range(21)], mixed(smol)
    together = essence(outputs(limited(smol), items, params))
    llm = limited(smol, **limits)
    order = list(range(20, -1, -1))
    again = essence(outputs(llm, [items[i] for i in order], [params[i] for i in order]))
    assert again == [together[i] for i in order]
    if "blocks" in limits:
        assert llm.stats().preemptions > 0


def test_a_request_alone_draws_what_it_draws_in_company(smol: LLM, limited: Limited, prompts: list[list[int]]) -> None:
    items, params = [{"prompt_token_ids": prompts[i % 20]} for i in range(21)], mixed(smol)
    together = essence(outputs(limited(smol), items, params))
    for i in (0, 2, 8, 13):
        assert essence(outputs(limited(smol), [items[i]], [params[i]])) == [together[i]]


def test_bad_words_without_a_tokenizer_are_refused(smol: LLM, limited: Limited) -> None:
    llm: Any = limited(smol)
    llm._open.core._intake._bad_words._tokenizer = None
    (result,) = outputs(llm, {"prompt_token_ids": [5]}, greedy(bad_words=["a"]))
    assert "bad_words need a tokenizer, but skip_tokenizer_init is set" in (result.error or "")
    assert complete(smol, LIST, max_tokens=1).token_ids
