"""Structured outputs of a real model: each kind, and beside everything that happens to running requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from engine import LLM, RequestOutput, SamplingParams
from engine.generation import GenerationCore
from tests.engine.ask import complete, outputs
from tests.engine.test_launched_ahead import ahead, essence

Limited = Callable[..., LLM]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 99}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


class Person(BaseModel):
    model_config = {"extra": "forbid"}
    name: str
    age: int


def form(**fields: Any) -> dict[str, Any]:
    return {"structured_outputs": fields}


def test_json_of_a_pydantic_model(smol: LLM) -> None:
    got = complete(smol, "A person: ", max_tokens=60, **form(json=Person))
    assert got.finish_reason == "stop"
    assert Person.model_validate_json(got.text).name


def test_json_of_a_schema_and_its_whitespace(smol: LLM) -> None:
    texts = {}
    kinds: dict[str, dict[str, Any]] = {
        "any": {},
        "none": {"disable_any_whitespace": True},
        "two": {"whitespace_pattern": "  "},
    }
    for name, options in kinds.items():
        got = complete(smol, "A city: ", max_tokens=80, **form(json=CITY, **options))
        assert got.finish_reason == "stop"
        assert Draft202012Validator(CITY).is_valid(json.loads(got.text))
        texts[name] = got.text
    assert re.fullmatch(r'\{"city":"[^"]*","people":-?\d+\}', texts["none"])
    assert re.fullmatch(r'\{(  )?"city"(  )?:(  )?"[^"]*"(  )?,(  )?"people"(  )?:(  )?-?\d+(  )?\}', texts["two"])


def test_any_json_object(smol: LLM) -> None:
    got = complete(smol, 'A small object: {"a": 1}\nAnother: ', max_tokens=60, **form(json_object=True))
    assert got.finish_reason == "stop"
    assert isinstance(json.loads(got.text), dict)


def test_a_choice(smol: LLM) -> None:
    free = complete(smol, "Is snow warm? Answer: ").text
    got = complete(smol, "Is snow warm? Answer: ", **form(choice=["Ja, natürlich", "Nein, nie"]))
    assert got.text in ("Ja, natürlich", "Nein, nie")
    assert got.finish_reason == "stop"
    assert got.text not in free


def test_a_regex_beyond_ascii(smol: LLM) -> None:
    pattern = r"[äöü-]{3,6}, \d{2}€"
    got = complete(smol, "Price: ", max_tokens=40, **form(regex=pattern))
    assert got.finish_reason == "stop"
    assert re.fullmatch(pattern, got.text)


def test_an_ebnf_grammar(smol: LLM) -> None:
    grammar = 'root ::= "SELECT " column ("," column)? " FROM cities"\ncolumn ::= "name" | "people" | "land"'
    got = complete(smol, "SQL: ", max_tokens=40, **form(grammar=grammar))
    assert got.finish_reason == "stop"
    assert re.fullmatch(r"SELECT (name|people|land)(,(name|people|land))? FROM cities", got.text)


def test_a_structural_tag(smol: LLM) -> None:
    tag = {"begin": "<city>", "end": "</city>", "content": {"type": "json_schema", "json_schema": CITY}}
    parts = [{"type": "const_string", "value": "So: "}, {"type": "tag", **tag}]
    tags = {"type": "structural_tag", "format": {"type": "sequence", "elements": parts}}
    got = complete(smol, "A city: ", max_tokens=80, **form(structural_tag=tags))
    assert got.finish_reason == "stop"
    found = re.fullmatch(r"So: <city>(.*)</city>", got.text, re.S)
    assert found is not None
    assert Draft202012Validator(CITY).is_valid(json.loads(found[1]))


def test_free_text_until_a_trigger(smol: LLM) -> None:
    """The prompt makes the model write the trigger; what follows has the tag's form, unlike without the tag."""
    shots = [f"Input: {city}\nOutput: ok <city>{city}, 2</city>\n" for city in ("Paris", "Rome")]
    prompt = "".join(shots) + "Input: Oslo\nOutput:"
    tags = {"structures": [{"begin": "<city>", "schema": CITY, "end": "</city>"}], "triggers": ["<city>"]}
    free = complete(smol, prompt, max_tokens=30).text
    assert "<city>" in free
    assert "<city>{" not in free.replace(" ", "")
    got = complete(smol, prompt, max_tokens=60, **form(structural_tag=tags)).text
    assert got.startswith(free[: free.index("<city>")])
    (inner,) = re.findall(r"<city>(.*?)</city>", got, re.S)[:1]
    assert Draft202012Validator(CITY).is_valid(json.loads(inner))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"regex": "(ab"}, "unclosed group"),
        ({"grammar": "nonsense"}, "::="),
        ({"json": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"json": "{"}, "no JSON"),
    ],
)
def test_a_bad_grammar_is_one_error_row_among_good_ones(smol: LLM, fields: dict[str, Any], says: str) -> None:
    good = SamplingParams(temperature=0, max_tokens=8, **form(choice=["red", "green"]))
    bad = SamplingParams(temperature=0, max_tokens=8, **form(**fields))
    free = SamplingParams(temperature=0, max_tokens=8)
    first, second, third, last = outputs(smol, ["A colour:"] * 4, [good, bad, free, good])
    assert second.error is not None
    assert says in second.error
    assert not second.outputs
    assert first.outputs[0].text == last.outputs[0].text
    assert first.outputs[0].text in ("red", "green")
    assert third.outputs[0].text == complete(smol, "A colour:", max_tokens=8).text


def test_ends_that_may_not_come_yet_are_filled_up(smol: LLM) -> None:
    eos = smol.get_tokenizer().eos_token_id
    got = complete(smol, max_tokens=9, ignore_eos=True, **form(choice=["yes"]))
    assert (got.text, got.finish_reason, len(got.token_ids)) == ("yes", "length", 9)
    assert set(got.token_ids[2:]) == {eos}
    got = complete(smol, max_tokens=9, min_tokens=6, **form(choice=["yes"]))
    assert (got.text, got.finish_reason, len(got.token_ids)) == ("yes", "stop", 6)
    # Where the text may go on, min_tokens makes it longer.
    eager = {"logit_bias": {eos: 100}, **form(choice=["one", "one two three four five"])}
    assert complete(smol, **eager).text == "one"
    assert complete(smol, min_tokens=3, **eager).text == "one two three four five"


def test_stop_ids_and_stop_strings(smol: LLM) -> None:
    full = smol.get_tokenizer()("1")["input_ids"][-1]
    got = complete(smol, max_tokens=30, stop_token_ids=[full], **form(regex="[01]{8}"))
    assert (got.finish_reason, len(got.text)) == ("stop", 8)
    assert "1" not in got.text, "a stop id is an end, and ends come where the grammar is complete"
    got = complete(smol, max_tokens=30, stop=["00"], **form(regex="[01]{3}00[01]{3}"))
    assert (got.finish_reason, got.stop_reason) == ("stop", "00")


def test_the_grammar_has_the_last_word(smol: LLM) -> None:
    """Fields that leave nothing that the grammar allows yield, and others choose among what it allows."""
    tokenizer = smol.get_tokenizer()
    red, green = (tokenizer(word)["input_ids"][0] for word in ("red", "green"))
    only = [tokenizer("xyz")["input_ids"][0]]
    assert complete(smol, allowed_token_ids=only, **form(choice=["red"])).text == "red"
    assert complete(smol, bad_words=["red"], **form(choice=["red"])).text == "red"
    for wanted, token in (("red", red), ("green", green)):
        got = complete(smol, logit_bias={token: 100}, **form(choice=["red", "green"]))
        assert got.text == wanted


def test_logprobs_are_of_the_model_alone(smol: LLM) -> None:
    free = complete(smol, "The capital of France is", max_tokens=1, logprobs=3)
    bound = complete(smol, "The capital of France is", max_tokens=1, logprobs=3, **form(choice=["qqq"]))
    assert bound.logprobs is not None
    assert free.logprobs is not None
    likeliest = list(free.logprobs[0])[:3]
    assert list(bound.logprobs[0])[:3] == likeliest
    assert bound.token_ids[0] not in likeliest
    assert bound.logprobs[0][bound.token_ids[0]].rank > 3


def requests(articles: list[str], count: int = 14) -> tuple[list[str], list[SamplingParams]]:
    """Structured and free requests of all sorts, some of them with several completions."""
    forms: list[dict[str, Any]] = [
        form(json=CITY), {}, form(regex="[a-z]{2,12}( [a-z]{1,6}){0,3}"), form(json=CITY, disable_any_whitespace=True),
        form(choice=["one", "two", "three"]),
    ]  # fmt: skip
    params = [
        SamplingParams(
            temperature=0.9 if i % 2 else 0.0, seed=i, n=2 if i % 6 == 1 else 1, max_tokens=20,
            **forms[i % 5],
        )
        for i in range(count)
    ]  # fmt: skip
    return [text[: 40 + 17 * i] for i, text in enumerate(articles[:count])], params


@pytest.fixture(scope="module")
def expected(smol: LLM, limited: Limited, articles: list[str]) -> list[Any]:
    """Each request by itself."""
    texts, params = requests(articles)
    return [essence(outputs(limited(smol), text, each))[0] for text, each in zip(texts, params, strict=True)]


TIGHT = {"blocks": 20, "block_size": 8, "admission_control": False}


@pytest.mark.parametrize(
    ("launches", "limits"),
    [
        ("in step", {}),
        ("in step", TIGHT),
        ("ahead", {"max_seqs": 3, "max_tokens": 40}),
        ("ahead", {**TIGHT, "swap_slots": 80}),
    ],
    ids=str,
)
def test_tokens_do_not_depend_on_what_else_happens(
    smol: LLM, limited: Limited, articles: list[str], expected: list[Any], limits: dict[str, Any], launches: str
) -> None:
    texts, params = requests(articles)
    llm = limited(smol, **limits)
    if launches == "ahead":
        llm, runner = ahead(llm)
    assert essence(outputs(llm, texts, params)) == expected
    if launches == "ahead":
        assert runner.fed > 40
    if "blocks" in limits:
        assert llm.stats().preemptions > 0
    assert not core_of(llm)._masks, "matchers of finished requests are kept"


def core_of(llm: LLM) -> GenerationCore:
    core = llm._open.core
    assert isinstance(core, GenerationCore)
    return core


def test_aborting_one_leaves_the_others_alone(smol: LLM, limited: Limited, articles: list[str]) -> None:
    for llm in (limited(smol), ahead(limited(smol))[0]):
        params = [SamplingParams(temperature=0, max_tokens=30, **form(json=CITY)) for _ in range(3)]
        whole = outputs(llm, articles[:3], params)
        rest: dict[str, RequestOutput] = {}
        short = SamplingParams(temperature=0, max_tokens=2)
        for output in llm.stream([*articles[:3], "x"], [*params, short]):
            rest[output.request_id] = output
            if output.request_id == "3":
                aborted = llm.abort("1")
                assert aborted is not None
                assert aborted.outputs[0].finish_reason == "abort"
        assert {name: essence([output]) for name, output in rest.items() if name != "3"} == {
            name: essence([whole[int(name)]]) for name in ("0", "2")
        }
        assert not core_of(llm)._masks
