"""Outputs are matched by id; flips are counted and shown where they begin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.compare.outputs import compare_outputs
from runner.journal import FILE_NAME, Entry, Journal
from runner.sink.parquet import ParquetSink


def folder(path: Path, records: Sequence[Mapping[str, Any]], kind: str = "jsonl") -> Path:
    path.mkdir()
    lines = [json.dumps(record) for record in records]
    if kind == "parquet":
        ParquetSink().write(lambda: lines, path / "outputs.parquet")
    else:
        (path / "outputs.jsonl").write_text("".join(line + "\n" for line in lines))
    return path


def row(number: int, output: Any, **more: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "output": output, "finish_reason": "stop", "prompt_tokens": 4, **more}


def test_flips_are_counted_whatever_the_order_and_the_first_are_shown(tmp_path: Path) -> None:
    a = [row(n, f"the answer to {n} is yes") for n in range(500)]
    b = [row(n, f"the answer to {n} is {'no' if n % 50 == 7 else 'yes'}") for n in range(500)]
    for kind in ("jsonl", "parquet"):
        (tmp_path / kind).mkdir()
        left, right = folder(tmp_path / kind / "a", a, kind), folder(tmp_path / kind / "b", b[::-1], kind)
        found = compare_outputs(left, right, most_shown=3)
        assert found is not None
        assert (found.rows, found.flips, found.alone, found.same) == (500, 10, (0, 0), False)
        assert len(found.shown) == 3
        flip = next(one for one in compare_outputs(left, right, most_shown=99).shown if one.id == "r57")  # type: ignore[union-attr]
        assert flip.character == len("the answer to 57 is ")
        assert (flip.a, flip.b) == ("the answer to 57 is yes", "the answer to 57 is no")


def test_equal_outputs_are_the_same(tmp_path: Path) -> None:
    rows = [row(n, f"text {n}") for n in range(5000)]
    found = compare_outputs(folder(tmp_path / "a", rows), folder(tmp_path / "b", rows))
    assert found is not None
    assert found.same
    assert (found.rows, found.shown) == (5000, [])


def test_the_first_token_that_differs_is_named(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [row(0, "one two three", token_ids=[5, 6, 7])])
    b = folder(tmp_path / "b", [row(0, "one two", token_ids=[5, 6])])
    (flip,) = compare_outputs(a, b).shown  # type: ignore[union-attr]
    assert (flip.character, flip.token, flip.token_ids) == (7, 2, (7, None))


def test_other_tokens_of_the_same_text_are_a_flip(tmp_path: Path) -> None:
    a, b = (folder(tmp_path / name, [row(0, "ab", token_ids=ids)]) for name, ids in (("a", [1, 2]), ("b", [3])))
    found = compare_outputs(a, b)
    assert found is not None
    assert found.flips == 1
    assert (found.shown[0].token, found.shown[0].token_ids) == (0, (1, 3))


def test_of_several_completions_the_one_that_differs_is_shown(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [row(0, ["same", "left"], token_ids=[[1], [2, 3]])])
    b = folder(tmp_path / "b", [row(0, ["same", "lift"], token_ids=[[1], [2, 4]])])
    (flip,) = compare_outputs(a, b).shown  # type: ignore[union-attr]
    assert (flip.a, flip.b, flip.character) == ("left", "lift", 1)
    assert (flip.token, flip.token_ids) == (1, (3, 4))


def test_vectors_differ_by_value(tmp_path: Path) -> None:
    a, b = (folder(tmp_path / name, [row(0, [0.5, value])]) for name, value in (("a", 0.25), ("b", 0.75)))
    found = compare_outputs(a, b)
    assert found is not None
    assert (found.flips, found.shown[0].character, found.shown[0].a) == (1, None, "[0.5, 0.25]")


def test_rows_of_one_side_finish_reasons_and_prompts_count(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [row(0, "x"), row(1, "y"), row(2, "z")])
    b = folder(tmp_path / "b", [row(1, "y", finish_reason="length"), row(2, "z", prompt_tokens=9), row(3, "w")])
    found = compare_outputs(a, b)
    assert found is not None
    assert (found.rows, found.flips, found.reasons, found.prompts) == (2, 0, 1, 1)
    assert (found.only_a, found.only_b, found.alone, found.same) == (["r0"], ["r3"], (1, 1), False)


def test_without_a_file_in_common_nothing_is_said(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [row(0, "x")]), folder(tmp_path / "b", [row(0, "x")], "parquet")
    assert compare_outputs(a, b) is None


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    a, b = (folder(tmp_path / name, [row(0, "x"), row(1, "y")]) for name in ("a", "b"))
    (b / "outputs.jsonl").write_text('{"id": "r0", "output": "x"}\n{"id": ')
    with pytest.raises(ValueError, match=r"b/outputs.jsonl, line 2, is not valid JSON"):
        compare_outputs(a, b)


def test_the_journal_serves_where_no_sink_is_shared(tmp_path: Path) -> None:
    """The journal is always there, whatever the sinks."""
    for name, output in (("a", "left"), ("b", "lift")):
        (tmp_path / name).mkdir()
        journal = Journal(tmp_path / name / FILE_NAME)
        good = Entry(0, "r0", 1, json.dumps(row(0, output)), 1, 0, 1, 0.0, 0.0, 0.0, 0.0, 0, "stop", None)
        journal.append([good, good._replace(idx=1, id="r1", record="{}", error="bad")], 1, 0.0, 0.0)
        journal.close()
    found = compare_outputs(tmp_path / "a", tmp_path / "b")
    assert found is not None
    assert (found.rows, found.flips, found.shown[0].character) == (1, 1, 1)
    (tmp_path / "b" / FILE_NAME).write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    with pytest.raises(ValueError, match="cannot be read"):
        compare_outputs(tmp_path / "a", tmp_path / "b")
