"""Compiling: kinds and options, what is refused and how, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.model.files import resolve_model
from engine.params import StructuredOutputsParams
from engine.structured.compiler import GrammarCompiler
from engine.text.inputs import InputError
from engine.text.tokenizer import load_tokenizer
from tests.engine.structured.small import EOS, allowed, compiler, start, tokenizer
from tests.engine.text.test_tokenizer_sentencepiece import write_gguf

TOKENIZER = tokenizer()
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NESTED = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": SCHEMA}}
CALL = {"begin": "<f>", "schema": SCHEMA, "end": "</f>"}


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return compiler()


def takes(grammars: GrammarCompiler, text: str, **fields: Any) -> bool:
    matcher = start(grammars, **fields)
    return all(matcher.advance(token) for token in TOKENIZER.encode(text, False)) and matcher.complete


def form(**fields: Any) -> dict[str, Any]:
    return {"type": "structural_tag", "format": fields}


TAGS = [{"begin": "<f>", "end": "</f>", "content": {"type": "json_schema", "json_schema": SCHEMA}}]
CHOICES = [{"type": "regex", "pattern": "[0-9]/x"}, {"type": "grammar", "grammar": 'root ::= "c"'}]
PARTS = [
    {"type": "const_string", "value": "a:"},
    {"type": "tag", "begin": "<b>", "content": {"type": "any_text"}, "end": "</b>"},
    {
        "type": "or",
        "elements": [{"type": "regex", "pattern": "[0-9]/x"}, {"type": "grammar", "grammar": 'root ::= "c"'}],
    },
]


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"json": SCHEMA}, ['{"a":1}', '{ "a": 12 , "b": [] }'], ['{"b":1}', '{"a":true}', '{"a":1']),
        ({"json": '{"type": "integer"}'}, ["12"], ["ab", "12.5"]),
        ({"json": SCHEMA, "disable_any_whitespace": True}, ['{"a":1}'], ['{"a": 1}']),
        ({"json": SCHEMA, "whitespace_pattern": " {0,2}"}, ['{"a":  1}', '{"a":1}'], ['{"a":   1}']),
        ({"json": SCHEMA, "disable_additional_properties": True}, ['{"a":1}'], ['{"a":1,"b":2}']),
        ({"json": NESTED, "disable_additional_properties": True}, ['{"a":{"a":1}}'], ['{"a":{"a":1,"b":2}}']),
        ({"json": {"type": "array", "uniqueItems": False}}, ["[1,1]"], ["1"]),
        ({"json": {"const": {"properties": {}, "uniqueItems": False}}}, ['{"properties":{},"uniqueItems":false}'], []),
        ({"json_object": True}, ["{}", '{"x":[1,{"y":true}]}'], ["[]", "1", "{"]),
        ({"json_object": True, "disable_any_whitespace": True}, ['{"x":1}'], ['{ "x":1}']),
        ({"regex": "^a+b$"}, ["ab", "aab"], ["b", "abx"]),
        ({"regex": r"[a-c]/\d"}, ["a/1"], ["a/a"]),
        ({"choice": ["ab", "true story", 'a"b']}, ["ab", "true story", 'a"b'], ["a", "abc", "true"]),
        ({"grammar": 'root ::= "a" root "b" | mid\nmid ::= [0-9]+'}, ["a1b", "12", "aa3bb"], ["ab", "a1"]),
        ({"grammar": 'start: "x" /[0-9]/'}, ["x1"], ["x"]),
        ({"structural_tag": {"structures": [CALL], "triggers": ["<f"]}},
         ["hi", 'hi <f>{"a": 1}</f> and <f>{"a":2}</f>.'], ['hi <f>{"b":1}</f>', 'hi <f>{"a":1}']),
        ({"structural_tag": {"structures": [CALL], "triggers": ["<f"]}, "disable_any_whitespace": True},
         ['<f>{"a":1}</f>'], ['<f>{"a": 1}</f>']),
        ({"structural_tag": form(type="triggered_tags", triggers=["<f"], tags=TAGS, at_least_one=True,
                                 stop_after_first=True)},
         ['hi <f>{"a":1}</f>'], ["hi", 'hi <f>{"a":1}</f> more']),
        ({"structural_tag": form(type="sequence", elements=PARTS)},
         ["a:<b>x y</b>3/x", "a:<b></b>c"], ["a:<b>x", "a:<b>x</b>d"]),
    ],
    ids=str,
)  # fmt: skip
def test_kinds_and_options(grammars: GrammarCompiler, fields: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert [takes(grammars, text, **fields) for text in good] == [True] * len(good)
    assert [takes(grammars, text, **fields) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"regex": "(ab"}, "structured_outputs.regex .*unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": r"[^\s\S]"}, "no text fits it"),
        ({"grammar": "hello"}, "structured_outputs.grammar cannot be read: .*::="),
        ({"grammar": "root ::= nothing"}, "'nothing' not found"),
        ({"grammar": 'root ::= root "a"'}, "no text fits it"),
        ({"json": {"type": "nonsense"}}, "structured_outputs.json cannot be used: Invalid type: nonsense"),
        ({"json": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"json": {"not": {"type": "string"}}}, "not"),
        ({"json": {"type": "string", "format": "phone"}}, "Unknown format: phone"),
        ({"json": {"type": "array", "minItems": 3, "maxItems": 1}}, "Unsatisfiable schema: minItems"),
        ({"json": {"$ref": "#/$defs/gone"}}, "/.defs/gone"),
        ({"json": '{"type": '}, "structured_outputs.json is no JSON"),
        ({"json": "12"}, "must hold a JSON object"),
        ({"json": {"enum": [b"x"]}}, "structured_outputs.json cannot be used: .*not JSON serializable"),
        ({"choice": ["\ud800"]}, "structured_outputs.choice"),
        ({"json_object": True, "whitespace_pattern": "("}, "unclosed group"),
        ({"json_object": True, "whitespace_pattern": " ", "disable_any_whitespace": True}, "not both"),
        ({"regex": "a", "disable_any_whitespace": True}, "disable_any_whitespace says nothing about regex"),
        ({"json_object": True, "disable_additional_properties": True}, "says nothing about json_object"),
        ({"structural_tag": {"a": 1}}, "structures and triggers, or a format"),
        ({"structural_tag": {"structures": [CALL], "triggers": ["<g"]}}, "no trigger of .*'<g'.* begins tag '<f>'"),
        ({"structural_tag": {"structures": [{"begin": "<f>"}], "triggers": ["<f"]}}, "schema is missing"),
        ({"structural_tag": form(type="qwen_xml_parameter")}, "'qwen_xml_parameter' is not one of const_string, "),
        ({"structural_tag": form(type="tag", begin=1, end="", content={"type": "any_text"})}, "begin must be text"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_used_says_why(grammars: GrammarCompiler, fields: dict[str, Any], says: str) -> None:
    for _ in range(2):  # the second time from what is kept
        with pytest.raises(InputError, match=says):
            start(grammars, **fields)


def test_the_same_grammar_is_compiled_once_and_the_oldest_is_forgotten() -> None:
    grammars = compiler(kept=2)

    def compiled(word: str, **options: Any) -> object:
        return grammars.compile(StructuredOutputsParams(json={"const": word}, **options), {EOS}).result()

    first = compiled("a")
    assert compiled("a") is first
    assert compiled("a", disable_any_whitespace=True) is not first
    assert compiled("a") is first  # used last, so it is the other one that goes
    compiled("b")
    assert compiled("a") is first
    compiled("c")
    compiled("d")
    assert compiled("a") is not first


def test_the_order_of_properties_tells_schemas_apart() -> None:
    grammars = compiler()
    one, other = (
        {"type": "object", "properties": {x: {"const": 1} for x in xs}, "required": ["a", "b"]} for xs in ("ab", "ba")
    )
    assert one == other
    assert takes(grammars, '{"a":1,"b":1}', json=one)
    assert takes(grammars, '{"b":1,"a":1}', json=other)


def test_without_a_tokenizer_or_an_end_it_is_refused() -> None:
    wanted = StructuredOutputsParams(regex="a")
    none = GrammarCompiler(None, 60, {EOS})
    none.prepare([wanted, None])
    with pytest.raises(InputError, match="skip_tokenizer_init"):
        none.compile(wanted, {EOS})
    with pytest.raises(InputError, match="give stop_token_ids"):
        compiler().compile(wanted, set())


def test_the_models_table_may_be_longer_or_shorter_than_the_vocabulary() -> None:
    size = TOKENIZER.vocab_size
    assert takes(compiler(size + 100), "ab12", regex="ab[0-9]+")
    assert max(allowed(start(compiler(size + 100), regex="[^x]+"))) < size
    assert max(allowed(start(compiler(size - 5), regex="[^x]+"))) < size - 5


def test_a_sentencepiece_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALLEY_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "m.gguf", True)
    spaced = load_tokenizer(resolve_model(str(tmp_path / "m.gguf")))
    grammars = GrammarCompiler(spaced, spaced.vocab_size, {2})
    words = ["fox the", "日本!"]
    prompt = spaced.encode("the")
    for word in words:
        matcher = grammars.compile(StructuredOutputsParams(choice=[word]), {2}).result().start({2})
        taken: list[int] = []
        while not matcher.complete:
            taken.append(allowed(matcher)[-1])
            assert matcher.advance(taken[-1])
        assert spaced.decode(taken, prompt_ids=prompt) == word


def test_thousands_of_choices(grammars: GrammarCompiler) -> None:
    """Also those that others begin with."""
    choices = [str(i) for i in range(3000)]
    assert all(takes(grammars, text, choice=choices) for text in ("7", "70", "299", "2999"))
    assert not any(takes(grammars, text, choice=choices) for text in ("3000", "07", "-"))
