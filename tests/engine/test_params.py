"""Sampling parameters: what is refused, how it is said, and that a change is checked like a first value."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import BaseModel

from engine.params import ParameterError, SamplingParams, StructuredOutputsParams

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"logit_bias": {1: 200}}, "-100 to 100"),
    ({"logit_bias": {-1: 1.0}}, "token ids from 0"),
    ({"logit_bias": [1]}, "a mapping"),
    ({"allowed_token_ids": []}, "at least one token id"),
    ({"allowed_token_ids": [-1]}, "at least one token id"),
    ({"bad_words": [" "]}, "more than spaces"),
    ({"bad_words": "word"}, "a list of strings"),
    ({"structured_outputs": {"jsn": "{}"}}, "json, regex, choice"),
    ({"structured_outputs": {}}, "exactly one of"),
    ({"structured_outputs": {"json": "{}", "regex": "a"}}, "exactly one of"),
    ({"structured_outputs": {"choice": []}}, "non-empty strings"),
    ({"structured_outputs": {"json": int}}, "pydantic model"),
    ({"output_kind": "streaming"}, "cumulative, delta, final_only"),
    ({"truncate_prompt_tokens": 0}, "at least 1"),
    ({"top_p": 0}, "above 0"),
    ({"temperature": float("nan")}, "0 or more"),
    ({"n": 2, "temperature": 0}, "greedy"),
    ({"min_tokens": 20}, "max_tokens=16"),
]


@pytest.mark.parametrize(("given", "allowed"), WRONG, ids=str)
def test_a_wrong_value_names_field_value_and_range(given: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ParameterError, match=allowed):
        SamplingParams(**given)


def test_a_change_is_checked_and_a_refused_one_changes_nothing() -> None:
    params = SamplingParams(stop="a")
    params.stop = ["b", "c"]
    params.max_tokens = 40
    assert params == SamplingParams(stop=["b", "c"], max_tokens=40)
    assert params.stop_strings == ("b", "c")
    with pytest.raises(ParameterError, match=r"top_p=3"):
        params.top_p = 3
    with pytest.raises(AttributeError, match="max_token'"):
        params.max_token = 3
    assert params == SamplingParams(stop=["b", "c"], max_tokens=40)


def test_copies_are_independent_and_checked() -> None:
    params = SamplingParams(structured_outputs={"json_object": True}, logit_bias={"7": -3})
    for other in (pickle.loads(pickle.dumps(params)), copy.copy(params), copy.deepcopy(params)):
        assert other == params
        other.seed = 5
        assert params.seed is None
        with pytest.raises(ParameterError):
            other.min_p = 2


def test_structured_outputs_from_a_mapping_and_from_a_model() -> None:
    class Car(BaseModel):
        brand: str

    by_model = SamplingParams(structured_outputs=StructuredOutputsParams(json=Car)).structured_outputs
    by_schema = SamplingParams(structured_outputs={"json": Car.model_json_schema()}).structured_outputs
    assert by_model == by_schema
    assert by_model is not None
    assert by_model.kind == "json"
