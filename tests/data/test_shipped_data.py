"""The datasets in recipes/data are complete, well formed and as varied as their README says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"

ROWS = {"articles": 64, "questions": 48, "sentence_pairs": 60}
REQUIRED_TEXT = {
    "articles": ("id", "title", "topic", "article", "highlights"),
    "questions": ("id", "category", "question"),
    "sentence_pairs": ("id", "a", "b"),
}
ALLOWED = {
    "articles": set(REQUIRED_TEXT["articles"]),
    "questions": {*REQUIRED_TEXT["questions"], "system"},
    "sentence_pairs": {*REQUIRED_TEXT["sentence_pairs"], "score"},
}
CATEGORIES = ("explain", "reasoning", "writing", "coding", "maths", "extraction", "translation", "roleplay")


def load(name: str) -> list[dict[str, Any]]:
    """The rows of one shipped file."""
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def words(text: str) -> int:
    return len(text.split())


def normalized(text: str) -> str:
    return " ".join(text.lower().split())


@pytest.mark.parametrize("name", ROWS)
def test_lines_are_json_objects_ending_in_one_line_feed(name: str) -> None:
    raw = (DATA / f"{name}.jsonl").read_bytes()
    assert b"\r" not in raw
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert raw.endswith(b"}\n")
    lines = raw.decode("utf-8").split("\n")[:-1]
    assert len(lines) == ROWS[name]
    assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize("name", ROWS)
def test_ids_are_unique_slugs(name: str) -> None:
    ids = [row["id"] for row in load(name)]
    assert [key for key, count in Counter(ids).items() if count > 1] == []
    assert [key for key in ids if not all(part.isascii() and part.isalnum() for part in key.split("-"))] == []
    assert [key for key in ids if key != key.lower()] == []


@pytest.mark.parametrize("name", ROWS)
def test_required_fields_hold_text_and_no_field_is_unknown(name: str) -> None:
    for row in load(name):
        assert set(row) <= ALLOWED[name], row["id"]
        for field in REQUIRED_TEXT[name]:
            assert isinstance(row[field], str), (row["id"], field)
            assert row[field].strip(), (row["id"], field)
            assert row[field] == row[field].strip(), (row["id"], field)


def test_article_lengths_are_in_range_and_spread() -> None:
    lengths = {row["id"]: words(row["article"]) for row in load("articles")}
    assert {key: count for key, count in lengths.items() if not 100 <= count <= 600} == {}
    assert sum(count < 150 for count in lengths.values()) >= 8
    assert sum(150 <= count < 300 for count in lengths.values()) >= 20
    assert sum(300 <= count <= 450 for count in lengths.values()) >= 10
    assert sum(count > 450 for count in lengths.values()) >= 5


def test_highlights_are_shorter_than_a_third_of_the_article() -> None:
    too_long = [row["id"] for row in load("articles") if 3 * words(row["highlights"]) >= words(row["article"])]
    assert too_long == []


def test_highlights_are_not_lifted_from_the_article() -> None:
    lifted = [row["id"] for row in load("articles") if normalized(row["highlights"]) in normalized(row["article"])]
    assert lifted == []


@pytest.mark.parametrize("field", ["title", "article", "highlights"])
def test_no_article_repeats_another(field: str) -> None:
    assert max(Counter(normalized(row[field]) for row in load("articles")).values()) == 1


def test_no_two_articles_start_with_the_same_eight_words() -> None:
    openings = Counter(tuple(normalized(row["article"]).split()[:8]) for row in load("articles"))
    assert [opening for opening, count in openings.items() if count > 1] == []


def test_articles_share_no_sentence() -> None:
    seen: dict[str, str] = {}
    for row in load("articles"):
        for sentence in normalized(row["article"]).split(". "):
            if words(sentence) >= 6:
                assert seen.setdefault(sentence, row["id"]) == row["id"], sentence


def test_longer_articles_have_paragraphs() -> None:
    unbroken = [row["id"] for row in load("articles") if words(row["article"]) > 150 and "\n\n" not in row["article"]]
    assert unbroken == []


def test_each_category_has_six_questions() -> None:
    assert Counter(row["category"] for row in load("questions")) == dict.fromkeys(CATEGORIES, 6)


def test_questions_differ_and_optional_system_messages_hold_text() -> None:
    rows = load("questions")
    assert max(Counter(normalized(row["question"]) for row in rows).values()) == 1
    systems = [row["system"] for row in rows if "system" in row]
    assert 0 < len(systems) < len(rows)
    assert all(isinstance(system, str) and system.strip() for system in systems)


def test_question_lengths_vary_from_a_line_to_a_paragraph() -> None:
    lengths = [words(row["question"]) for row in load("questions")]
    assert min(lengths) < 15
    assert max(lengths) > 90


def test_scores_are_floats_in_range_and_spread_evenly() -> None:
    scores = [row["score"] for row in load("sentence_pairs")]
    assert all(isinstance(score, float) and 0.0 <= score <= 5.0 for score in scores)
    bands = Counter(min(int(score), 4) for score in scores)
    assert all(bands[band] >= 8 for band in range(5)), bands


def test_sentence_pairs_are_distinct() -> None:
    pairs = [frozenset((normalized(row["a"]), normalized(row["b"]))) for row in load("sentence_pairs")]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(set(pairs)) == len(pairs)
