"""Stop strings against a naive model that reads the text character by character."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.text.stops import StopMatch, StopStrings

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4)


def naive(text: str, stops: list[str], include: bool) -> StopMatch | None:
    """The first character at which some stop string is complete, and the longest of those."""
    for end in range(len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            stop = max(done, key=len)
            return StopMatch(stop, end if include else end - len(stop))
    return None


def stream(chunks: list[str], stops: StopStrings) -> tuple[str, StopMatch | None]:
    """What a streaming consumer has been given in the end."""
    text = given_out = ""
    for chunk in chunks:
        text += chunk
        if match := stops.find(text, len(chunk)):
            assert text[: match.cut].startswith(given_out), "a character was taken back"
            return text[: match.cut], match
        ready = text[: len(text) - stops.held_back(text)]
        assert ready.startswith(given_out)
        given_out = ready
    return text, None


@given(chunks=st.lists(st.text("abc\n", max_size=5), max_size=8), stops=STOPS, include=st.booleans())
def test_streaming_in_any_pieces_equals_the_naive_model(chunks: list[str], stops: list[str], include: bool) -> None:
    text, match = stream(chunks, StopStrings(stops, include))
    expected = naive("".join(chunks), stops, include)
    assert match == expected
    assert text == ("".join(chunks) if expected is None else "".join(chunks)[: expected.cut])


@given(text=st.text("ab\n", max_size=12), stops=STOPS)
def test_no_more_is_held_back_than_needed(text: str, stops: list[str]) -> None:
    held = StopStrings(stops).held_back(text)
    tails = [text[start:] for start in range(len(text))]
    assert held == max((len(t) for t in tails if any(s.startswith(t) and s != t for s in stops)), default=0)
    assert StopStrings(stops, include=True).held_back(text) == 0


def test_only_matches_that_end_in_new_text_count() -> None:
    stops = StopStrings(["\n\n", "END"])
    assert stops.find("a\n\nb", new_chars=1) is None, "it was complete before min_tokens were reached"
    assert stops.find("a\n\nbEND", new_chars=1) == StopMatch("END", 4)
    assert stops.find("a\n\nb", new_chars=2) == StopMatch("\n\n", 1)
    assert StopStrings([]).find("anything", 8) is None
