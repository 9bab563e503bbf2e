"""Random parameters, random bytes as prompts, random text as stop strings: an answer or an error each, nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine import LLM, ParameterError, RequestOutput, SamplingParams
from tests.engine.ask import SMOLLM, outputs

LENGTH = 200  # max_model_len
VOCAB = 49_152
SMALL = {"num_hidden_layers": 1}
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), st.just("\ud800"),
    st.lists(st.integers(-2, VOCAB + 2), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
IDS = st.integers(0, VOCAB - 1)
FORMS = st.sampled_from(
    [
        {"choice": ["yes", "no", "\N{SNOWMAN}"]},
        {"regex": "[a-c]{1,3}"},
        {"regex": "("},
        {"regex": "a{1,5}b"},
        {"json": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
        {"json": "not json"},
        {"json": {"type": "nothing"}},
        {"json_object": True},
        {"grammar": 'root ::= "a" | "b" root'},
        {"grammar": "root ::="},
        {"structural_tag": "{}"},
    ]
)

# Mostly what is allowed; each field now and then anything at all.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(1, 3),
    "max_tokens": st.one_of(st.integers(1, 12), st.none()),
    "min_tokens": st.integers(0, 6),
    "ignore_eos": st.booleans(),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0.01, 10),
    "temperature": st.one_of(st.just(0), st.floats(0, 3)),
    "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 60_000),
    "min_p": st.floats(0, 1),
    "seed": st.integers(-(1 << 70), 1 << 70),
    "stop": st.one_of(st.text(min_size=1, max_size=3), st.lists(st.text(min_size=1, max_size=3), max_size=3)),
    "stop_token_ids": st.lists(IDS, max_size=3),
    "include_stop_str_in_output": st.booleans(),
    "logprobs": st.integers(-1, 5),
    "prompt_logprobs": st.integers(-1, 5),
    "flat_logprobs": st.booleans(),
    "detokenize": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "spaces_between_special_tokens": st.booleans(),
    "logit_bias": st.dictionaries(IDS, st.floats(-100, 100), max_size=4),
    "allowed_token_ids": st.lists(IDS, min_size=1, max_size=5),
    "bad_words": st.lists(st.text(min_size=1, max_size=4), max_size=3),
    "structured_outputs": FORMS,
    "output_kind": st.sampled_from(["cumulative", "delta", "final_only"]),
    "truncate_prompt_tokens": st.integers(-1, 50),
}


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True, max_size=7))
    given_fields = {name: draw(FIELDS[name]) for name in names}
    if draw(st.integers(0, 5)) == 0 and names:
        given_fields[names[0]] = draw(ANYTHING)
    return given_fields


PROMPTS = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.binary(max_size=20).map(lambda raw: raw.decode("latin-1")),
    st.lists(st.integers(0, VOCAB - 1), max_size=30),
    st.lists(st.integers(-3, VOCAB + 3), max_size=3),
    st.text(max_size=8).map(lambda text: text * 40),
    st.fixed_dictionaries({"prompt": st.text(max_size=10)}, optional={"cache_salt": ANYTHING, "priority": ANYTHING}),
    st.fixed_dictionaries({"messages": st.lists(st.dictionaries(st.sampled_from(["role", "content"]), ANYTHING))}),
    st.dictionaries(st.text(max_size=5), ANYTHING, max_size=2),
    ANYTHING,
)


@pytest.fixture(scope="module", params=["plain", "drafts, few blocks"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    more: dict[str, Any] = {}
    if request.param != "plain":
        more = {"speculative_config": {"method": "ngram"}, "enable_admission_control": False, "max_num_seqs": 8}
    with LLM(
        SMOLLM, load_format="dummy", hf_overrides=SMALL, dtype="float32", max_model_len=LENGTH,
        kv_cache_memory_bytes=1 << 19, **more,
    ) as made:  # fmt: skip
        yield made


def made(fields: dict[str, Any]) -> SamplingParams | None:
    try:
        return SamplingParams(**fields)
    except ParameterError as refused:
        error = str(refused)
    named = (*fields, "structured_outputs", "json", "choice")
    assert any(name in error for name in named), error
    return None


def check(output: RequestOutput, params: SamplingParams) -> None:
    assert output.finished
    if output.error is not None:
        assert output.error.strip()
        return
    assert [one.index for one in output.outputs] == list(range(params.n))
    for one in output.outputs:
        most = LENGTH - len(output.prompt_token_ids) if params.max_tokens is None else params.max_tokens
        assert 1 <= len(one.token_ids) <= most
        assert one.finish_reason in ("stop", "length")
        assert one.finish_reason == "stop" or len(one.token_ids) == min(most, LENGTH - len(output.prompt_token_ids))
        assert len(one.token_ids) >= min(params.min_tokens, most)
        if params.allowed_token_ids is not None and params.structured_outputs is None:
            assert set(one.token_ids) <= set(params.allowed_token_ids)
        if params.logprobs is not None:
            assert one.logprobs is not None
            assert len(one.logprobs) == len(one.token_ids)
            assert all(token in scores for token, scores in zip(one.token_ids, one.logprobs, strict=True))
        if isinstance(one.stop_reason, str):
            assert one.stop_reason in params.stop_strings
            assert one.text.endswith(one.stop_reason) == params.include_stop_str_in_output or not one.text
        assert params.detokenize or one.text == ""


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(PROMPTS, parameters()), min_size=1, max_size=5))
@example([("x" * 300, {"max_tokens": None}), ("a", {"allowed_token_ids": [5], "bad_words": ["a"], "min_tokens": 3})])
@example([([1, 2], {"structured_outputs": {"regex": "ab"}, "ignore_eos": True, "max_tokens": 8, "min_tokens": 6})])
def test_every_request_has_an_answer_or_an_error(llm: LLM, asked: list[tuple[Any, dict[str, Any]]]) -> None:
    pairs = [(prompt, params) for prompt, fields in asked if (params := made(fields)) is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outputs(llm, iter([prompt for prompt, _ in pairs]), [params for _, params in pairs])
    assert len(found) == len(pairs)
    for output, (_, params) in zip(found, pairs, strict=True):
        check(output, params)
    stats = llm.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)
