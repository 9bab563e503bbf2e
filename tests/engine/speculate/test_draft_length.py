"""How many drafts a request gets, from what became of its last ones."""

from __future__ import annotations

import itertools

from engine.speculate.draft_length import LONGEST_PAUSE, DraftLength


def test_length_follows_what_was_right() -> None:
    length = DraftLength(8)
    assert length.drafts(1) == 8
    length.learn(8, 3, 5)
    assert length.drafts(5) == 5
    length.learn(5, 0, 6)
    assert length.drafts(6) == 2
    length.learn(2, 2, 9)
    assert length.drafts(9) == 8
    length.learn(8, 7, 17)
    assert length.drafts(17) == 8, "never more than are allowed"


def test_wrong_drafts_are_made_ever_more_rarely() -> None:
    length, produced, made, drafted = DraftLength(8), 1, [], []
    for _ in range(1000):
        count = length.drafts(produced)
        if count:
            made.append(produced)
            drafted.append(count)
            length.learn(count, 0, produced + 1)
        produced += 1
    gaps = [b - a for a, b in itertools.pairwise(made)]
    assert gaps[:5] == [1, 1, 2, 4, 8]
    assert set(gaps[5:]) == {LONGEST_PAUSE}
    assert drafted[:4] == [8, 4, 2, 1]
    assert set(drafted[3:]) == {1}
    produced = made[-1] + LONGEST_PAUSE
    length.learn(1, 1, produced + 2)
    assert length.drafts(produced + 2) == 8, "one right draft ends the pauses"
    length.learn(8, 0, produced + 3)
    assert length.drafts(produced + 3) == 4
