"""The masks of a step: the same for few rows and for many, from tokens that are known and from pending ones."""

from __future__ import annotations

import numpy as np
import pytest

from engine.params import SamplingParams
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import PENDING, Request
from engine.structured.masks import FEW, GrammarMasks
from tests.engine.structured.small import EOS, compiler, start, tokenizer

TOKENIZER = tokenizer()
GRAMMARS = compiler()
WORDS = ["ab1", "tree", "true", "abba"]


def requests(count: int) -> list[Request]:
    """Requests after 0 to 2 tokens of one of the words; some at their end, some behind it."""
    made = []
    for i in range(count):
        request = Request(i, [5, 6, 7], SamplingParams(), 9)
        word = TOKENIZER.encode(WORDS[i % 4], False)
        request.output += word[: i % 3] if i % 7 else [*word, EOS][: len(word) + i // 7 % 2]
        made.append(request)
    return made


def plan(some: list[Request]) -> StepPlan:
    return StepPlan(tuple(Slice(r, r.total - 1, r.total, True, 0) for r in some))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 3 * FEW])
def test_each_row_is_what_its_matcher_alone_says(count: int, beside: bool) -> None:
    some = requests(count)
    masks = GrammarMasks()
    for request in some:
        masks.add(request, start(GRAMMARS, choice=WORDS))
    free = Request(count, [5], SamplingParams(), 9)
    chosen = masks.of(plan([*some, free]), None, beside)
    assert chosen is not None
    found = chosen()
    assert set(found) == set(some)
    for request in some:
        alone = start(GRAMMARS, choice=WORDS)
        alone.follow(request.output)
        row = np.zeros(alone.words, np.int32)
        alone.fill(row)
        assert np.array_equal(found[request], row)


def test_pending_tokens_are_asked_for_when_the_masks_are() -> None:
    request, other = requests(2)
    request.output[:] = [PENDING]
    masks = GrammarMasks()
    masks.add(request, start(GRAMMARS, choice=WORDS))
    masks.add(other, start(GRAMMARS, choice=WORDS))
    asked: list[str] = []
    (drawn,) = TOKENIZER.encode("tr", False)

    def pending() -> dict[Request, int]:
        asked.append("now")
        return {request: drawn}

    chosen = masks.of(plan([request, other]), pending, beside=True)
    assert chosen is not None
    assert not asked
    alone = start(GRAMMARS, choice=WORDS)
    alone.advance(drawn)
    row = np.zeros(alone.words, np.int32)
    alone.fill(row)
    assert np.array_equal(chosen()[request], row)
    assert asked == ["now"]
    assert request.output == [PENDING], "outputs are the scheduler's"


def test_steps_without_a_grammar_have_no_masks() -> None:
    (request,) = requests(1)
    masks = GrammarMasks()
    assert not masks
    assert masks.of(plan([request]), None, beside=True) is None
    masks.add(request, start(GRAMMARS, choice=WORDS))
    prefill = StepPlan((Slice(request, 0, 2, False, 0),))
    assert masks.of(prefill, None, beside=True) is None
    masks.forget(request)
    assert not masks
