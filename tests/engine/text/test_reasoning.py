"""Reasoning and answer apart; no text is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.reasoning import MARKS, split_reasoning

THINK = MARKS["think"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("<>/[]\n"), max_size=60)
NAMES = st.sampled_from(sorted(MARKS))


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("plain", False, (None, "plain")),
        ("<think>\nwhy\n</think>\n\nso", False, ("why", "so")),
        ("<think>\n\n</think>\n\nso", False, (None, "so")),
        ("<think>never ends", False, ("never ends", "")),
        ("why</think>so", False, ("why", "so")),
        ("why\n</think>\nso", True, ("why", "so")),
        ("cut while thinking", True, ("cut while thinking", "")),
        ("<think>again</think>so", True, ("again", "so")),
        ("why</think>the tag <think> is", True, ("why", "the tag <think> is")),
        ("why</think>the tag <think> is", False, ("why", "the tag <think> is")),
        ("Well. <think>hm</think> Yes <think>b</think>", False, ("hm", "Well.  Yes <think>b</think>")),
        ("</think>so", True, (None, "so")),
    ],
)
def test_cases(text: str, opened: bool, expected: tuple[str | None, str]) -> None:
    assert split_reasoning(text, THINK, opened) == expected


@given(TEXT, NAMES)
def test_text_without_marks_is_content_unchanged(text: str, name: str) -> None:
    begin, end = MARKS[name]
    if begin not in text and end not in text:
        assert split_reasoning(text, MARKS[name]) == (None, text)


@given(TEXT, TEXT, NAMES, st.booleans())
def test_written_then_parsed(reasoning: str, content: str, name: str, opened: bool) -> None:
    begin, end = MARKS[name]
    if any(mark in part for mark in (begin, end) for part in (reasoning, content)):
        return
    text = f"{'' if opened else begin}\n{reasoning}\n{end}\n\n{content}"
    assert split_reasoning(text, MARKS[name], opened) == (reasoning.strip("\n") or None, content.lstrip("\n"))


@given(TEXT, TEXT, TEXT, NAMES, st.booleans(), st.integers(0, 200))
def test_nothing_is_lost_wherever_the_text_is_cut(
    before: str, reasoning: str, after: str, name: str, opened: bool, cut: int
) -> None:
    begin, end = MARKS[name]
    text = f"{before}{begin}{reasoning}{end}{after}"[:cut]
    found, content = split_reasoning(text, MARKS[name], opened)
    got = sorted((found or "") + content)
    # at most one mark of each kind is taken away, and line breaks
    for gone in ("", begin, end, begin + end):
        if [c for c in sorted(got + list(gone)) if c != "\n"] == [c for c in sorted(text) if c != "\n"]:
            return
    raise AssertionError((text, found, content))
