"""Every sink holds the same rows, in the same order, whatever happened before they were written."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from runner.sink.hf_dataset import write_hf_dataset
from runner.sink.openai_batch import BatchFormat
from runner.sink.parquet import ParquetSink
from runner.sink.table import write_csv, write_sqlite
from tests.runner.launch import NULL, articles, only_run, records, refused, start, succeed, wait_for_rows

KINDS = ("jsonl", "parquet", "csv", "sqlite", "hf_dataset", "openai_batch")
SINKS = "sinks=[" + ",".join("{kind: " + kind + "}" for kind in KINDS) + "]"


def from_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def from_sqlite(path: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM outputs ORDER BY rowid")]


def test_all_sinks_agree_after_a_kill(tmp_path: Path) -> None:
    import datasets

    articles(tmp_path, 60)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl", "dataset.limit=null", SINKS,
             "engine.seconds_per_step=0.02", "engine.max_num_seqs=4", "sampling.max_tokens=8")  # fmt: skip
    process = start(tmp_path, *words)
    wait_for_rows(process, tmp_path, 10)
    process.kill()
    process.communicate()
    for name in ("outputs.csv.partial", "outputs.sqlite.partial"):  # what a kill while they are written leaves
        (only_run(tmp_path) / name).write_text("half of it")
    (only_run(tmp_path) / "outputs_hf.partial").mkdir()
    succeed(tmp_path, *words)
    path = only_run(tmp_path)
    rows = records(path / "outputs.jsonl")
    assert len(rows) == 60
    assert pq.read_table(path / "outputs.parquet").to_pylist() == rows
    assert from_sqlite(path / "outputs.sqlite") == rows
    assert from_csv(path / "outputs.csv") == [{name: str(value) for name, value in row.items()} for row in rows]
    assert datasets.load_from_disk(str(path / "outputs_hf")).to_list() == rows
    batch = records(path / "batch_output.jsonl")
    assert [line["custom_id"] for line in batch] == [row["id"] for row in rows]
    assert [line["response"]["body"]["choices"][0]["message"]["content"] for line in batch] == [
        r["output"] for r in rows
    ]
    assert not list(path.glob("*.partial"))
    outputs = json.loads((path / "manifest.json").read_text())["outputs"]
    for name in outputs:
        assert (path / name).is_file()
    assert {
        "outputs.csv",
        "outputs.sqlite",
        "batch_output.jsonl",
        "batch_errors.jsonl",
        "outputs_hf/data-00000-of-00001.arrow",
    } <= set(outputs)
    assert "VALID" in (path / "report.md").read_text().splitlines()[0]


ROWS = [
    {"id": "a", "output": 'text, “quoted” "x"\nsecond line', "n": 1, "share": 0.5, "ok": True},
    {"id": "b", "output": ["one", "two"], "n": None, "more": {"k": [1]}, "ok": False},
    {"id": "c", "output": "\ud83d", 'odd "name"': "z"},
]


def read(rows: list[dict[str, Any]]) -> Any:
    return lambda: iter([json.dumps(row) for row in rows])


def test_tables_keep_every_value(tmp_path: Path) -> None:
    write_sqlite(read(ROWS), tmp_path / "o.sqlite")
    a, b, c = from_sqlite(tmp_path / "o.sqlite")
    assert list(a) == ["id", "output", "n", "share", "ok", "more", 'odd "name"']
    assert (a["output"], a["n"], a["share"], json.loads(a["ok"])) == (ROWS[0]["output"], 1, 0.5, True)
    assert (json.loads(b["output"]), b["n"], json.loads(b["more"])) == (["one", "two"], None, {"k": [1]})
    assert (c["output"], c['odd "name"']) == ("\\ud83d", "z")
    write_csv(read(ROWS), tmp_path / "o.csv")
    first, second, _ = from_csv(tmp_path / "o.csv")
    assert (first["output"], first["n"], first["more"]) == (ROWS[0]["output"], "1", "")
    assert json.loads(second["output"]) == ["one", "two"]


def test_values_that_a_format_cannot_hold_become_text_in_every_sink(tmp_path: Path) -> None:
    """Half a surrogate pair, a number of 70 bits, columns that differ in case alone: a run's end survives them all."""
    from datasets import load_from_disk

    rows = [
        {"key": "a\ud800", "text": "one", "odd": {"\ud83d": ["\udc00", 1]}, "big": 2**70, "Odd": 1, "mixed": 2**60 + 1},
        {"key": "b", "text": "two", "odd": {"k": [2]}, "big": 1, "Odd": 2, "mixed": 0.5},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    succeed(tmp_path, "name=x", *NULL, "dataset=jsonl", "dataset.path=rows.jsonl", "dataset.id_column=key",
            "model.name=none", "prompt.template='{{ text }}'", "task.keep_columns=[odd,big,Odd,mixed]",
            "metrics=[{kind: length}]", SINKS)  # fmt: skip
    path = only_run(tmp_path, "x")
    ids = ["a\\ud800", "b"]
    assert [record["id"] for record in records(path / "outputs.jsonl")] == ids
    found = [pq.read_table(path / "outputs.parquet").to_pylist(), from_csv(path / "outputs.csv"),
             from_sqlite(path / "outputs.sqlite"), load_from_disk(str(path / "outputs_hf")).to_list()]  # fmt: skip
    for table in found:
        assert [row["id"] for row in table] == ids
        assert [int(row["big"]) for row in table] == [2**70, 1]
        assert "\\ud83d" in str(table[0]["odd"])
        assert [str(row["mixed"]) for row in table] == [str(2**60 + 1), "0.5"]
    assert pq.read_table(path / "scores.parquet").column("id").to_pylist() == ids
    assert "a\\ud800" in (path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (2**60 + 1, 0.5),
        ({"n": 0.5}, {"n": 2**60 + 1}),
        ({}, {}),
        ([{}], []),
        ({"a": {}}, None),
        (2**64 - 1, -1),
        (1, 2),
    ],
)
def test_parquet_gives_back_what_was_kept(tmp_path: Path, one: Any, other: Any) -> None:
    rows = [{"id": "a", "kept": one}] * 2000 + [{"id": "b", "kept": other}]  # more than a row group of the first
    ParquetSink().write(read(rows), tmp_path / "o.parquet")
    kept = pq.read_table(tmp_path / "o.parquet").column("kept").to_pylist()
    assert [json.loads(value) if isinstance(value, str) else value for value in (kept[0], kept[-1])] == [one, other]


def test_no_rows_leave_empty_tables(tmp_path: Path) -> None:
    write_sqlite(read([]), tmp_path / "o.sqlite")
    write_csv(read([]), tmp_path / "o.csv")
    assert from_sqlite(tmp_path / "o.sqlite") == from_csv(tmp_path / "o.csv") == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    def broken() -> Any:
        yield json.dumps({"id": "a"})
        raise OSError("no room")

    for write, name in ((write_csv, "o.csv"), (write_sqlite, "o.sqlite"), (write_hf_dataset, "o")):
        write(read([{"id": "old"}]), tmp_path / name)  # type: ignore[operator]
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(OSError, match="no room"):
            write(broken, tmp_path / name)  # type: ignore[operator]
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_batch_lines_of_every_task() -> None:
    embedded = json.loads(
        BatchFormat("embed", "m").output(json.dumps({"id": "a", "output": [0.5], "prompt_tokens": 3}))
    )
    assert embedded["response"]["body"]["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    row = {"id": "a", "output": "hi", "finish_reason": "stop", "prompt_tokens": 3, "output_tokens": 1, "token_ids": [7],
           "logprobs": [[{"token_id": 4, "logprob": -0.1, "rank": 1, "token": "x"},
                         {"token_id": 7, "logprob": -2.0, "rank": 2, "token": "hi"}]]}  # fmt: skip
    body = json.loads(BatchFormat("generate", "m").output(json.dumps(row)))["response"]["body"]
    (choice,) = body["choices"]
    assert (body["object"], choice["text"]) == ("text_completion", "hi")
    assert choice["logprobs"]["content"][0]["token"] == "hi"
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_an_unknown_sink_is_refused(tmp_path: Path) -> None:
    articles(tmp_path, 2)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl")
    message = refused(tmp_path, *words, "sinks=[{kind: sqlit}]")
    assert "'sqlit'" in message
    assert "did you mean 'sqlite'?" in message
    assert "each kind may be there once" in refused(tmp_path, *words, "sinks=[{kind: csv},{kind: csv}]")
