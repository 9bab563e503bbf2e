"""The text of random token streams, piece by piece, against decoding everything and then looking for stop strings."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.files import resolve_model
from engine.text.detokenizer import IncrementalDetokenizer
from engine.text.stops import StopStrings
from engine.text.stream import TextStream
from engine.text.tokenizer import load_tokenizer
from tests.engine.multilingual import WORDS

KNOWN = load_tokenizer(resolve_model("smollm2-135m-instruct"))
BYTES = [token for token in range(KNOWN.vocab_size) if len(KNOWN.token_bytes(token)) == 1]
LETTERS = [KNOWN.encode(letter)[0] for letter in "aab"]

TOKENS = st.lists(
    st.one_of(
        st.sampled_from(WORDS).map(KNOWN.encode),
        st.lists(st.sampled_from(BYTES), max_size=6),
        st.lists(st.sampled_from(LETTERS), max_size=6),
        st.lists(st.integers(0, KNOWN.vocab_size - 1), max_size=6),
    ),
    max_size=4,
).map(lambda parts: [token for part in parts for token in part])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], list[str], int]:
    """Tokens, stop strings of which some occur, and how many tokens come before they count."""
    ids = draw(TOKENS)
    text = KNOWN.decode(ids)
    places = st.tuples(st.integers(0, max(0, len(text) - 1)), st.integers(1, 5))
    found = [text[at : at + size] or "x" for at, size in draw(st.lists(places, max_size=3))]
    return ids, [*found, *draw(st.lists(st.text("ab", min_size=1, max_size=4), max_size=2))], draw(st.integers(0, 5))


def whole(ids: list[int], stops: StopStrings, least: int) -> tuple[str, str | None]:
    """The text and the stop string, from all texts that decoding the first tokens gives."""
    detokenizer = IncrementalDetokenizer(KNOWN)
    text = ""
    for place in range(len(ids) + 1):
        new = detokenizer.push(ids[place]) if place < len(ids) else detokenizer.flush()
        text += new
        for end in range(len(text) - len(new) + 1, len(text) + 1) if min(place + 1, len(ids)) > least else ():
            done = [stop for stop in stops.stops if text[:end].endswith(stop)]
            if done:
                stop = max(done, key=len)
                return text[: end if stops.include else end - len(stop)], stop
    return text, None


@settings(max_examples=400, deadline=None)
@given(case=cases(), include=st.booleans())
def test_pieces_are_the_text_up_to_the_stop_string(case: tuple[list[int], list[str], int], include: bool) -> None:
    ids, strings, least = case
    stops = StopStrings(strings, include)
    expected, stop = whole(ids, stops, least)
    for piecewise in (True, False):
        stream = TextStream(IncrementalDetokenizer(KNOWN), stops, piecewise)
        given = ""
        for place, token in enumerate(ids, start=1):
            given += stream.push(token, search=place > least)
            assert expected.startswith(given), "a character was taken back"
            if stream.stop is not None:
                break
        given += stream.finish(search=len(ids) > least)
        assert (given, stream.stop) == (expected, stop)
        assert stream.text == expected


@settings(max_examples=200, deadline=None)
@given(ids=TOKENS)
def test_without_stop_strings_it_is_what_decoding_gives(ids: list[int]) -> None:
    stream = TextStream(IncrementalDetokenizer(KNOWN), StopStrings(()))
    pieces = [stream.push(token) for token in ids]
    assert "".join([*pieces, stream.finish()]) == KNOWN.decode(ids)
