"""Datasets: what they read, what they refuse, and that order and duplicates need no memory of their size."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset import BadRow, Row
from runner.dataset.order import name_rows, refuse_duplicates, shuffle
from runner.dataset.rows import Record
from runner.errors import ConfigError
from tests.runner.datasets import columns, errors, opened


def test_the_same_rows_from_every_format(tmp_path: Path) -> None:
    import datasets

    rows = [{"id": f"r{n}", "text": f"text, “{n}”\nsecond line"} for n in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = ["id,text", *(f'{row["id"]},"{row["text"]}"' for row in rows)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    for section in (
        {"kind": "jsonl", "path": str(tmp_path / "a.jsonl")},
        {"kind": "csv", "path": str(tmp_path / "a.csv")},
        {"kind": "parquet", "path": str(tmp_path / "a.parquet")},
        {"kind": "hf", "path": str(tmp_path / "saved")},
        {"kind": "inline", "rows": rows},
    ):
        dataset = opened(**section, id_column="id")
        assert columns(dataset) == rows, section
        assert [row.id for row in dataset.iter_rows()] == [row["id"] for row in rows]
        assert dataset.count() in (5, 10)  # CSV counts lines, and these cells have two


def test_a_split_must_be_named_and_known(tmp_path: Path) -> None:
    import datasets

    part = datasets.Dataset.from_list([{"a": 1}])
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ConfigError, match=r"dataset.split='tain' .* test, train.*did you mean 'train'"):
        opened(kind="hf", path=str(tmp_path / "d"), split="tain")
    assert columns(opened(kind="hf", path=str(tmp_path / "d"), split="test")) == [{"a": 1}]


def test_text_units_and_ids(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt").write_text("one\ntwo\n\n\nthree\n")
    (tmp_path / "a.txt").write_text("alpha", encoding="utf-8-sig")  # a byte order mark is no text
    (tmp_path / "c.md").write_text("not asked for")
    path = str(tmp_path)
    files = list(opened(kind="text", path=path).iter_rows())
    assert [row.id for row in files] == ["a.txt", "deep/b.txt"]
    found = list(opened(kind="text", path=path, unit="line").iter_rows())
    assert columns(opened(kind="text", path=path, unit="line"))[0]["text"] == "alpha"
    assert [row.id for row in found] == ["a.txt:1", "deep/b.txt:1", "deep/b.txt:2", "deep/b.txt:5"]
    paragraphs = columns(opened(kind="text", path=path, unit="paragraph"))
    assert [row["text"] for row in paragraphs] == ["alpha", "one\ntwo", "three"]
    assert [row["text"] for row in columns(opened(kind="text", path=f"{path}/*.md"))] == ["not asked for"]
    with pytest.raises(ConfigError, match=r"dataset.pattern='\*.rst'"):
        opened(kind="text", path=path, pattern="*.rst")


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands the ~ of dataset.path=~/rows.jsonl."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    for section in ({"kind": "jsonl", "path": "~/a.jsonl"}, {"kind": "jsonl", "path": "~/*.jsonl"},
                    {"kind": "text", "path": "~", "pattern": "*.jsonl"}):  # fmt: skip
        assert len(columns(opened(**section))) == 1


def test_a_csv_file_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\n\nid\ttext\n1\t5" pipe\n2\t"two\nlines"\n3\t"open\n4\tfour\n')
    dataset = opened(kind="csv", path=str(path), delimiter="\\t", id_column="id")
    assert columns(dataset) == [{"id": "1", "text": '5" pipe'}, {"id": "2", "text": "two\nlines"}]
    assert "is not CSV: unexpected end of data" in errors(dataset)[0]
    path.write_text('id,"text\n1,one\n')
    with pytest.raises(ConfigError, match=r"a\.csv has a header that is not CSV"):
        list(opened(kind="csv", path=str(path)).iter_rows())


def test_unreadable_records_are_bad_rows_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,one\n2\n3,\xff\xfe\n4,four\n")
    assert [row["id"] for row in columns(opened(kind="csv", path=str(tmp_path / "a.csv")))] == ["1", "4"]
    short, binary = errors(opened(kind="csv", path=str(tmp_path / "a.csv")))
    assert "line 3 has 1 cells, the header has 2" in short
    assert "line 4 is not UTF-8" in binary
    (tmp_path / "a.txt").write_bytes(b"\xff")
    assert "a.txt is not UTF-8" in errors(opened(kind="text", path=str(tmp_path)))[0]
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \xff}\n\n{"a": 3}\n' + b"[" * 100_000 + b"\n")
    dataset = opened(kind="jsonl", path=str(tmp_path / "a.jsonl"))
    assert [row["a"] for row in columns(dataset)] == [1, 3]
    assert "line 2" in errors(dataset)[0]
    assert "line 5" in errors(dataset)[1]
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        list(opened(kind="parquet", path=str(tmp_path / "a.parquet")).iter_rows())


def test_the_fingerprint_follows_the_content_not_the_path(tmp_path: Path) -> None:
    for name, text in (("a", '{"x": 1}\n'), ("b", '{"x": 1}\n'), ("c", '{"x": 2}\n')):
        (tmp_path / f"{name}.jsonl").write_text(text)
    a, b, c = (opened(kind="jsonl", path=str(tmp_path / f"{n}.jsonl")).source.fingerprint() for n in "abc")
    assert a == b != c
    synthetic = [opened(kind="synthetic", seed=seed).source.fingerprint() for seed in (0, 0, 1)]
    assert synthetic[0] == synthetic[1] != synthetic[2]


def test_synthetic_lengths() -> None:
    fixed = columns(opened(kind="synthetic", rows=3, input_length={"kind": "fixed", "tokens": 7}, shared_prefix=5))
    assert [len(row["prompt_token_ids"]) for row in fixed] == [12, 12, 12]
    assert len({tuple(row["prompt_token_ids"][:5]) for row in fixed}) == 1
    assert len({tuple(row["prompt_token_ids"][5:]) for row in fixed}) == 3
    length = {"kind": "lognormal", "mu": 4.8, "sigma": 1.1, "min": 4, "max": 2000}
    spread = columns(opened(kind="synthetic", rows=2000, input_length=length, output_length=length, max_token_id=50))
    sizes = [len(row["prompt_token_ids"]) for row in spread]
    assert 4 <= min(sizes) < 20 < 1500 < max(sizes) <= 2000
    assert 180 < sum(sizes) / len(sizes) < 260  # exp(4.8 + 1.1²/2) = 222, less what max cuts
    assert all(10 <= token < 50 for row in spread[:20] for token in row["prompt_token_ids"])
    assert spread[7] == columns(opened(kind="synthetic", rows=8, input_length=length, output_length=length,
                                       max_token_id=50))[7]  # fmt: skip


def test_keys_of_the_other_kind_of_length_mean_nothing() -> None:
    both = {"tokens": 7, "mu": 4.8, "sigma": 0.5, "min": 4, "max": 90}
    for kind, own in (("fixed", ["tokens"]), ("lognormal", ["mu", "sigma", "min", "max"])):
        alone = {"kind": kind} | {name: both[name] for name in own}
        one, other = (opened(kind="synthetic", rows=20, input_length=x) for x in (alone, both | {"kind": kind}))
        assert columns(one) == columns(other)
        assert one.source.fingerprint() == other.source.fingerprint()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=3), max_size=60))
def test_duplicates_against_a_set(names: list[str]) -> None:
    rows = list(refuse_duplicates(name_rows((Record({"id": name}) for name in names), "id")))
    assert [row.index for row in rows] == list(range(len(names)))
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        first = names.index(name)
        assert isinstance(row, Row) == (first == index)
        if isinstance(row, BadRow):
            assert f"row {index} has the id of row {first} " in row.error


def test_shuffle_is_a_permutation_that_the_seed_decides() -> None:
    def order(seed: int, limit: int | None = None) -> list[int]:
        return [row.index for row in shuffle(name_rows((Record({"n": n}) for n in range(500)), None), seed, limit)]

    assert sorted(order(1)) == list(range(500))
    assert order(1) == order(1) != order(2)
    assert order(1)[:20] == order(1, limit=20)
    moved = sum(abs(index - place) for place, index in enumerate(order(3))) / 500
    assert 120 < moved < 210  # a uniform permutation moves a row by 500/3 places on average


def test_shuffled_rows_keep_index_and_values() -> None:
    dataset = opened(kind="inline", rows=[f"t{n}" for n in range(20)], shuffle_seed=5, limit=8)
    rows = [row for row in dataset.iter_rows() if isinstance(row, Row)]
    assert len(rows) == 8
    assert all(row.columns["text"] == f"t{row.index}" and row.id == str(row.index) for row in rows)
