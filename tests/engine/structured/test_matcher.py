"""Matchers: what they allow, where an output may end, and going back."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.params import StructuredOutputsParams
from tests.engine.structured.small import EOS, STOP, allowed, compiler, start, tokenizer

TOKENIZER = tokenizer()
SIZE = TOKENIZER.vocab_size
GRAMMARS = compiler()
FORMS: list[dict[str, Any]] = [
    {"regex": "[a-c]{2,4}(x|true)"},
    {"choice": ["true", "tree", "ab12", "ab1"]},
    {"json": {"type": "object", "properties": {"ab": {"type": "boolean"}}, "required": ["ab"]}},
    {"grammar": 'root ::= "a" root "b" | "12"'},
]


def text(tokens: list[int]) -> str:
    return TOKENIZER.decode(tokens)


def test_allowed_tokens_are_those_that_can_go_on() -> None:
    """Against brute force: the texts that the pattern matches, cut anywhere."""
    words = ["abx", "abtrue", "bax", "cccax"]
    matcher = start(GRAMMARS, choice=words)
    pieces = {i: text([i]) for i in range(2, SIZE)}
    for taken in ("", "ab", "abt", "cc"):
        tokens = TOKENIZER.encode(taken, False)
        matcher.follow(tokens)
        expected = {i for i, piece in pieces.items() if any(word.startswith(taken + piece) for word in words)}
        assert allowed(matcher) == sorted(expected)
        matcher.follow([])


def test_an_end_token_only_where_the_grammar_is_complete() -> None:
    matcher = start(GRAMMARS, regex="ab?")
    assert not {EOS, STOP} & set(allowed(matcher))
    assert matcher.advance(TOKENIZER.encode("a", False)[0])
    assert matcher.complete
    assert allowed(matcher) == [EOS, *TOKENIZER.encode("b", False)]
    assert matcher.advance(TOKENIZER.encode("b", False)[0])
    assert allowed(matcher) == [EOS]


def test_all_end_tokens_end_it_and_nothing_but_them_follows() -> None:
    b = TOKENIZER.encode("b", False)[0]
    matcher = start(GRAMMARS, frozenset({STOP, b}), regex="ab+")  # EOS is no end here, and "b" is one
    matcher.follow(TOKENIZER.encode("a", False))
    assert matcher.error is None
    assert allowed(matcher) == [STOP, b], "nothing but an end token goes on: the row must not be empty"
    matcher = start(GRAMMARS, frozenset({STOP, EOS}), regex="ab")
    matcher.follow(TOKENIZER.encode("ab", False))
    assert allowed(matcher) == [EOS, STOP]
    for token in (STOP, EOS, EOS):
        assert matcher.advance(token)
        assert allowed(matcher) == [EOS, STOP]
    assert not matcher.advance(b)


@given(form=st.sampled_from(FORMS), moves=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 6)), max_size=14))
@settings(max_examples=80, deadline=None)
def test_going_back_leads_to_the_same_masks(form: dict[str, Any], moves: list[tuple[int, int]]) -> None:
    """Any walk forwards and backwards, over the end too, ends in the state of a matcher that went there directly."""
    matcher = start(GRAMMARS, frozenset({EOS, STOP}), **form)
    taken: list[int] = []
    for pick, back in moves:
        choices = allowed(matcher)
        token = choices[pick % len(choices)]
        assert matcher.advance(token)
        taken.append(token)
        back = min(back, len(taken)) if back > 3 else 0
        matcher.rollback(back)
        del taken[len(taken) - back :]
        direct = start(GRAMMARS, frozenset({EOS, STOP}), **form)
        direct.follow(taken)
        assert (allowed(matcher), matcher.complete, matcher.taken) == (allowed(direct), direct.complete, len(taken))


def test_a_matcher_follows_an_output_once() -> None:
    matcher = start(GRAMMARS, regex="[a-c]{6}")
    output = TOKENIZER.encode("abc", False)
    for _ in range(3):  # as after a preemption, when the same outputs come again
        matcher.follow(output)
        assert matcher.taken == len(output)
    matcher.follow([*output, *TOKENIZER.encode("cab", False)])
    assert matcher.complete


def test_what_cannot_be_written_ends_with_an_error() -> None:
    matcher = start(GRAMMARS, regex="ab(Ω|Ψ)")
    matcher.follow(TOKENIZER.encode("ab", False))
    assert allowed(matcher) == [EOS]
    assert matcher.error is not None
    assert "no token" in matcher.error


def test_a_token_that_does_not_fit_is_an_error() -> None:
    matcher = start(GRAMMARS, regex="ab")
    assert not matcher.advance(TOKENIZER.encode("c", False)[0])
    assert matcher.error is not None
    assert re.search("grammar", matcher.error)
    assert allowed(matcher) == [EOS]


def test_children_do_not_disturb_each_other() -> None:
    grammar = GRAMMARS.compile(StructuredOutputsParams(choice=["ab1", "tree"]), {EOS}).result()
    first, second = grammar.start({EOS}), grammar.start({EOS})
    before = allowed(second)
    first.follow(TOKENIZER.encode("ab1", False))
    assert (first.complete, second.complete) == (True, False)
    assert allowed(second) == before
