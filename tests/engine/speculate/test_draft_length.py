"""How many drafts a request gets, from what became of its last ones."""

from __future__ import annotations

import itertools

from engine.speculate.draft_length import LONGEST_PAUSE, DraftLength


def test_grows_while_drafts_are_right_and_shrinks_to_what_was() -> None:
    length = DraftLength(8)
    assert length.drafts(1) == 8
    length.learn(8, 3, 5)
    assert length.drafts(5) == 4
    length.learn(4, 4, 10)
    assert length.drafts(10) == 8
    length.learn(8, 8, 19)
    assert length.drafts(19) == 8


def test_wrong_drafts_are_made_ever_more_rarely() -> None:
    length, produced, made = DraftLength(8), 1, []
    for _ in range(1000):
        count = length.drafts(produced)
        if count:
            made.append(produced)
            length.learn(count, 0, produced + 1)
        produced += 1
    gaps = [b - a for a, b in itertools.pairwise(made)]
    assert gaps[:5] == [2, 4, 8, 16, 32]
    assert set(gaps[5:]) == {LONGEST_PAUSE}
    produced = made[-1] + LONGEST_PAUSE
    assert length.drafts(produced) == 1
    length.learn(1, 1, produced + 2)
    assert length.drafts(produced + 2) == 2, "one right draft ends the pauses"
    length.learn(2, 0, produced + 3)
    assert (length.drafts(produced + 3), length.drafts(produced + 4)) == (0, 1)
