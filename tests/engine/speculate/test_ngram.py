"""Prompt lookup against a search of the whole sequence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.speculate.ngram import CANDIDATES, NgramIndex


def slow(tokens: list[int], least: int, most: int, count: int) -> list[int]:
    """The same by its definition: try every earlier place."""
    end = len(tokens)

    def agreeing(place: int) -> int:
        length = 0
        while length < min(most, place) and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length

    places = [place for place in range(end - 1, 0, -1) if agreeing(place) >= least][:CANDIDATES]
    if not places:
        return []
    best = max(places, key=lambda place: (agreeing(place), place))
    drafts = list(tokens)
    for i in range(count):
        drafts.append(drafts[best + i])
    return drafts[end:]


@given(
    tokens=st.lists(st.integers(0, 3), max_size=80),
    cuts=st.lists(st.integers(0, 80), max_size=5),
    least=st.integers(1, 4),
    more=st.integers(0, 3),
    count=st.integers(1, 9),
)
def test_finds_what_a_search_finds(tokens: list[int], cuts: list[int], least: int, more: int, count: int) -> None:
    index = NgramIndex(least, least + more)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(tokens)], strict=True):
        index.extend(tokens[start:stop])
        assert index.propose(count) == slow(tokens[: min(stop, len(tokens))], least, least + more, count)
    assert len(index) == len(tokens)


def test_longer_agreement_wins_over_later_place() -> None:
    text = [1, 2, 3, 4, 9, 8, 3, 4, 7, 7, 1, 2, 3, 4]
    index = NgramIndex(2, 4)
    index.extend(text)
    assert index.propose(3) == [9, 8, 3]
    latest = NgramIndex(2, 2)
    latest.extend(text)
    assert latest.propose(3) == [7, 7, 1]


def test_a_sequence_that_repeats_itself_goes_on_repeating() -> None:
    index = NgramIndex(2, 4)
    index.extend([5, 6, 7, 5, 6, 7, 5, 6])
    assert index.propose(7) == [7, 5, 6, 7, 5, 6, 7]


def test_large_token_ids_are_told_apart() -> None:
    index = NgramIndex(2, 2)
    index.extend([(1 << 31) - 1, 0, 11, 0, (1 << 31) - 1, 22, (1 << 31) - 1, 0])
    assert index.propose(1) == [11]
