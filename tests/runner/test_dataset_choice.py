"""Which rows are taken: filter, sample, shard; each against what a list would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runner.dataset import BadRow, Dataset, Row
from runner.errors import ConfigError
from tests.runner.datasets import opened
from tests.runner.launch import NULL, articles, only_run, records, refused, succeed, write_rows


def inline(count: int, **keys: Any) -> Dataset:
    return opened(kind="inline", rows=[{"n": n, "even": n % 2 == 0} for n in range(count)], **keys)


def numbers(dataset: Dataset) -> list[int]:
    return [row.columns["n"] for row in dataset.iter_rows() if isinstance(row, Row)]


def test_a_filter_keeps_index_and_order() -> None:
    rows = list(inline(20, filter="even and n > 4").iter_rows())
    assert [row.index for row in rows] == [6, 8, 10, 12, 14, 16, 18]
    assert [row.id for row in rows] == [str(row.index) for row in rows]
    assert inline(20, filter="even").count() is None  # not known before the rows are read


def test_a_filter_that_fails_on_a_row_makes_it_a_bad_row() -> None:
    rows: list[Any] = [{"n": 1}, {"n": "two"}, {"m": 3}, {"n": 4}]
    found = list(opened(kind="inline", rows=rows, filter="n > 0").iter_rows())
    assert [isinstance(row, BadRow) for row in found] == [False, True, True, False]
    assert "'>' not supported" in found[1].error  # type: ignore[union-attr]
    assert "'n' is undefined" in found[2].error  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("expression", "parts"),
    [("evn", ["'evn'", "did you mean 'even'?", "even, n"]), ("n >", ["'n >'", "no Jinja expression"])],
)
def test_wrong_filters_are_refused(expression: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        inline(5, filter=expression).first_row()
    assert all(part in str(caught.value) for part in parts)


def test_a_filter_that_lets_nothing_pass_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset.filter='n > 9' lets no row of inline pass"):
        inline(5, filter="n > 9").first_row()


def test_the_first_row_is_the_first_that_passes() -> None:
    first = inline(9, filter="n > 3").first_row()
    assert first is not None
    assert first.columns["n"] == 4


def test_a_sample_is_uniform_in_stored_order_and_the_seeds_own() -> None:
    found = numbers(inline(500, sample=100, sample_seed=1))
    assert found == sorted(found)
    assert len(found) == len(set(found)) == 100
    assert found == numbers(inline(500, sample=100, sample_seed=1)) != numbers(inline(500, sample=100, sample_seed=2))
    assert set(numbers(inline(500, sample=40, sample_seed=1))) < set(found)
    counts = [0] * 20
    for seed in range(400):
        for number in numbers(inline(20, sample=5, sample_seed=seed)):
            counts[number] += 1
    assert all(70 <= count <= 130 for count in counts)  # 100 expected, within 3.5 standard deviations
    assert inline(500, sample=100).count() == 100


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.one_of(st.none(), st.integers(1, 70)), st.booleans())
def test_shards_are_the_whole(count: int, shards: int, sampled: int | None, filtered: bool) -> None:
    keys = {"sample": sampled, "filter": "even" if filtered else None}
    parts = [inline(count, shard={"index": index, "count": shards}, **keys) for index in range(shards)]
    found = [numbers(part) for part in parts]
    assert sorted(n for part in found for n in part) == numbers(inline(count, **keys))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    if not filtered:
        assert [part.count() for part in parts] == [len(part) for part in found]


def test_shuffle_and_limit_come_last() -> None:
    whole = inline(100, filter="even", sample=30, shard={"index": 1, "count": 3})
    shuffled = inline(100, filter="even", sample=30, shard={"index": 1, "count": 3}, shuffle_seed=3, limit=4)
    assert set(numbers(shuffled)) < set(numbers(whole))
    assert len(numbers(shuffled)) == 4


def test_a_shard_outside_the_count_is_refused() -> None:
    with pytest.raises(ValidationError, match="index=2 is not below count=2"):
        opened(kind="inline", rows=["a"], shard={"index": 2, "count": 2})


def test_shards_of_a_run_are_runs_of_their_own_and_make_the_whole(tmp_path: Path) -> None:
    articles(tmp_path, 11)
    words = (
        "+recipe=demo",
        *NULL,
        "dataset.path=articles.jsonl",
        "dataset.limit=null",
        "dataset.filter='id != \"a3\"'",
    )
    succeed(tmp_path, *words, "name=whole")
    whole = records(only_run(tmp_path, "whole") / "outputs.jsonl")
    parts = []
    for index in range(2):
        succeed(tmp_path, *words, "dataset.shard.count=2", f"dataset.shard.index={index}", f"name=part{index}")
        parts += records(only_run(tmp_path, f"part{index}") / "outputs.jsonl")
    assert sorted(parts, key=lambda row: str(row["id"])) == sorted(whole, key=lambda row: str(row["id"]))
    assert "a3" not in [row["id"] for row in whole]
    message = refused(tmp_path, *words, "dataset.shard.count=2", "dataset.shard.index=2")
    assert "dataset.shard.index=2 is not below count=2" in message


def test_filtered_errors_stay_visible(tmp_path: Path) -> None:
    write_rows(tmp_path / "articles.jsonl", [{"id": "a", "title": "t", "article": "x", "n": 1}, "broken"])
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl", "max_error_rate=0.9", "dataset.filter='n == 1'")
    succeed(tmp_path, *words)
    (error,) = records(only_run(tmp_path) / "errors.jsonl")
    assert "line 2" in error["error"]
