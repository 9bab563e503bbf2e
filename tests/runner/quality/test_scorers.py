"""Each metric on outputs whose figure is known, and the totals against the libraries' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from runner.config.metrics import JsonValid, MetricSection
from runner.quality.judge import SCORES, judge_outputs

SECTION: TypeAdapter[Any] = TypeAdapter(MetricSection)
ARTICLES = Path(__file__).parents[3] / "recipes" / "data" / "articles.jsonl"


def judge(folder: Path, sections: list[dict[str, Any]], rows: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    """The totals, and scores.parquet as columns."""
    records = [json.dumps({"id": f"r{n}", **row}) for n, row in enumerate(rows)]
    found = judge_outputs([SECTION.validate_python(section) for section in sections], records, folder / SCORES)
    return found, pq.read_table(folder / SCORES).to_pydict()


def texts() -> tuple[list[str], list[str]]:
    """Hypotheses that share something with their references: the articles' first 30 words."""
    rows = [json.loads(line) for line in ARTICLES.read_text().splitlines()]
    return [" ".join(row["article"].split()[:30]) for row in rows], [row["highlights"] for row in rows]


@pytest.mark.parametrize(
    ("section", "output", "reference", "figure"),
    [
        ({"kind": "exact_match"}, " Paris\n", "Paris", 1),
        ({"kind": "exact_match"}, "paris", "Paris", 0),
        ({"kind": "exact_match", "ignore_case": True}, "paris", "Paris", 1),
        ({"kind": "exact_match", "strip": False}, "Paris ", "Paris", 0),
        ({"kind": "exact_match"}, "Rome", ["Paris", "Rome"], 1),
        ({"kind": "exact_match"}, "42", 42, 1),
        ({"kind": "regex_match", "pattern": r"\d{4}"}, "in 1789 it", None, 1),
        ({"kind": "regex_match", "pattern": r"^\d{4}"}, "in 1789 it", None, 0),
        ({"kind": "regex_match", "pattern": "YES", "ignore_case": True}, "yes.", None, 1),
        ({"kind": "regex_match", "pattern": r"#### (\d+)", "reference": "r"}, "#### 7 no, #### 12", "12", 1),
        ({"kind": "regex_match", "pattern": r"#### (\d+)", "reference": "r"}, "#### 12 no, #### 7", "12", 0),
        ({"kind": "regex_match", "pattern": r"#### (\d+)", "reference": "r"}, "nothing", "12", 0),
        ({"kind": "json_valid"}, '{"a": [1, 2]}', None, 1),
        ({"kind": "json_valid"}, '{"a": NaN}', None, 0),
        ({"kind": "json_valid"}, '{"a": 1} and more', None, 0),
        ({"kind": "json_valid"}, "[" * 100_000, None, 0),
        ({"kind": "json_valid", "json_schema": {"type": "array"}}, '{"a": 1}', None, 0),
        ({"kind": "json_valid", "json_schema": {"$ref": "#"}}, '{"a": 1}', None, 0),  # round and round
        ({"kind": "json_valid", "json_schema": {"required": ["a"]}}, '{"a": 1}', None, 1),
        ({"kind": "rouge", "types": ["rouge1"]}, "the cat sat", "the cat ran", 2 / 3),
        ({"kind": "rouge", "types": ["rouge1"]}, "the cat sat", ["a dog", "the cat sat"], 1),
        ({"kind": "rouge", "types": ["rouge1"], "use_stemmer": True}, "jumped", "jumping", 1),
        ({"kind": "rouge", "types": ["rougeLsum"]}, "one two\nthree", "three\none two", 1),
        ({"kind": "bleu"}, "the cat sat on the mat", "the cat sat on the mat", 100),
        ({"kind": "chrf"}, "the cat", "the cat", 100),
        ({"kind": "chrf"}, "xyz", "the cat", 0),
    ],
)
def test_one_row(section: dict[str, Any], output: str, reference: Any, figure: float, tmp_path: Path) -> None:
    if section["kind"] not in ("json_valid", "regex_match"):
        section = {**section, "reference": "r"}
    found, _ = judge(tmp_path, [section], [{"output": output, "r": reference}])
    (value,) = [v for name, v in found["metrics"].items() if "/" not in name]
    assert value == pytest.approx(figure)


def test_length_counts_characters_and_words(tmp_path: Path) -> None:
    found, scores = judge(tmp_path, [{"kind": "length"}], [{"output": "one two"}, {"output": ""}])
    assert scores["output_characters"] == [7, 0]
    assert (found["metrics"]["output_words"], scores["output_words"]) == (1.0, [2, 0])


@pytest.mark.parametrize("options", [{}, {"lowercase": True}, {"tokenize": "char"}])
def test_corpus_bleu_is_sacrebleus(options: dict[str, Any], tmp_path: Path) -> None:
    outputs, references = texts()
    rows = [{"output": o, "r": r} for o, r in zip(outputs, references, strict=True)]
    found, scores = judge(tmp_path, [{"kind": "bleu", "reference": "r", **options}], rows)
    assert found["metrics"]["bleu"] == pytest.approx(BLEU(**options).corpus_score(outputs, [references]).score)
    sentence = BLEU(**options, effective_order=True)
    assert scores["bleu"][3] == pytest.approx(sentence.sentence_score(outputs[3], [references[3]]).score)


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"lowercase": True}])
def test_corpus_chrf_is_sacrebleus(options: dict[str, Any], tmp_path: Path) -> None:
    outputs, references = texts()
    rows = [{"output": o, "r": [r, "another"]} for o, r in zip(outputs, references, strict=True)]
    found, scores = judge(tmp_path, [{"kind": "chrf", "reference": "r", **options}], rows)
    expected = CHRF(**options).corpus_score(outputs, [references, ["another"] * len(outputs)])
    assert found["metrics"]["chrf"] == pytest.approx(expected.score)
    assert scores["chrf"][5] == pytest.approx(
        CHRF(**options).sentence_score(outputs[5], [references[5], "another"]).score
    )


def test_intervals_are_sacrebleus_up_to_the_draws(tmp_path: Path) -> None:
    outputs, references = texts()
    rows = [{"output": o, "r": r} for o, r in zip(outputs, references, strict=True)]
    found, _ = judge(tmp_path, [{"kind": "bleu", "reference": "r"}, {"kind": "chrf", "reference": "r"}], rows)
    for name, library in (("bleu", BLEU()), ("chrf", CHRF())):
        theirs = library.corpus_score(outputs, [references], n_bootstrap=1000)
        half = (found["metrics"][f"{name}/high"] - found["metrics"][f"{name}/low"]) / 2
        assert half == pytest.approx(theirs._ci, rel=0.1)


def test_rows_without_reference_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"output": "a", "r": "a"}, {"output": "b", "r": None}, {"output": "c", "r": "x"}]
    found, scores = judge(tmp_path, [{"kind": "exact_match", "reference": "r"}], rows)
    assert scores["exact_match"] == [1.0, None, 0.0]
    assert found["metrics"]["exact_match"] == 0.5
    (about,) = found["quality"]
    assert (about["rows"], about["rows_without_reference"], about["rows_failed"]) == (2, 1, 0)
    assert found["notes"]["exact_match/low"] == "an interval needs at least 10 rows, there are 2"


def test_no_rows_give_no_figure(tmp_path: Path) -> None:
    found, scores = judge(tmp_path, [{"kind": "bleu", "reference": "r"}], [{"output": "a", "r": None}])
    assert found["metrics"] == {"bleu": None, "bleu/low": None, "bleu/high": None}
    assert found["notes"]["bleu"] == "no row could be judged"
    assert judge(tmp_path, [{"kind": "length"}], [])[1] == {"id": [], "output_characters": [], "output_words": []}
    assert scores["bleu"] == [None]


def test_what_a_library_cannot_judge_costs_its_row_alone(tmp_path: Path) -> None:
    """A remote schema is not fetched."""
    schema = {"properties": {"a": {"$ref": "http://nowhere.invalid/schema"}}}
    rows = [{"output": "{}"}, {"output": '{"a": 1}'}]
    found, scores = judge(tmp_path, [{"kind": "json_valid", "json_schema": schema}, {"kind": "length"}], rows)
    assert scores["json_valid"] == [1.0, None]
    assert scores["output_characters"] == [2, 8]
    (about, _) = found["quality"]
    assert about["rows_failed"] == 1
    assert about["first_failure"].startswith("r1: ")


def test_of_several_completions_the_mean_counts(tmp_path: Path) -> None:
    rows = [{"output": ["yes", "no", "yes", "yes"], "r": "yes"}, {"output": ["no", "no", "no", "no"], "r": "yes"}]
    sections = [{"kind": "exact_match", "reference": "r"}, {"kind": "bleu", "reference": "r"}]
    found, scores = judge(tmp_path, sections, rows)
    assert scores["exact_match"] == [0.75, 0.0]
    assert found["metrics"]["exact_match"] == 0.375


def test_two_of_a_kind_have_names_of_their_own(tmp_path: Path) -> None:
    sections = [{"kind": "exact_match", "reference": "r"}, {"kind": "exact_match", "reference": "s", "name": "other"}]
    found, scores = judge(tmp_path, sections, [{"output": "a", "r": "a", "s": "b"}])
    assert (found["metrics"]["exact_match"], found["metrics"]["other/exact_match"]) == (1.0, 0.0)
    assert list(scores) == ["id", "exact_match", "other/exact_match"]


def test_bootstrap_intervals_cover_and_do_not_move(tmp_path: Path) -> None:
    """The true share is in 95% of intervals, give or take the bootstrap's own error at 60 rows; draws are seeded."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        rows = [{"output": "a" if hit else "b", "r": "a"} for hit in rng.random(60) < 0.6]
        found, _ = judge(tmp_path, [{"kind": "exact_match", "reference": "r"}], rows)
        covered += found["metrics"]["exact_match/low"] <= 0.6 <= found["metrics"]["exact_match/high"]
    assert 87 <= covered <= 99
    again, _ = judge(tmp_path, [{"kind": "exact_match", "reference": "r"}], rows)
    assert again == found


def test_beyond_the_buckets_the_interval_is_still_the_means(tmp_path: Path) -> None:
    """10,000 rows in 4,096 buckets: as wide as Student's interval of the mean."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 50, 10_000)
    found, _ = judge(tmp_path, [{"kind": "length"}], [{"output": "x" * int(n)} for n in lengths])
    half = (found["metrics"]["output_characters/high"] - found["metrics"]["output_characters/low"]) / 2
    assert found["metrics"]["output_characters"] == pytest.approx(lengths.mean())
    assert half == pytest.approx(1.96 * lengths.std() / 100, rel=0.1)


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"properties": {"x": {"$ref": "#/$defs/y"}}}, "its $ref '#/$defs/y' leads nowhere"),
        ({"items": {"$ref": "http://127.0.0.1:1/x.json"}}, "nothing is fetched"),
        ({"properties": {"x": {"pattern": "("}}}, "'(' is not a 'regex'"),
        ({"$ref": "#/$defs/y", "$defs": {"y": {"$anchor": "z"}}, "not": {"$ref": "#z"}}, None),
        ({"$id": "http://localhost/s", "$defs": {"y": {"$id": "y"}}, "$ref": "y"}, None),
        (
            {"definitions": {"y": {}}, "properties": {"$ref": {"$ref": "#/definitions/y"}}, "const": {"$ref": "#/no"}},
            None,
        ),
    ],
)
def test_a_schema_that_cannot_judge_is_found_out_before_a_row_runs(schema: dict[str, Any], fault: str | None) -> None:
    found = JsonValid(json_schema=schema).fault()
    assert found is None if fault is None else fault in str(found)
