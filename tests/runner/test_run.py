"""What a run leaves: records, files and figures, through the command line on the null engine."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from engine.params import SamplingParams
from runner.config import parse
from tests.runner.launch import (
    NULL,
    SECONDS,
    articles,
    only_run,
    records,
    run_dirs,
    start,
    succeed,
    wait_for_rows,
    write_rows,
)

BASE = ("name=x", *NULL, "model.name=none", "dataset=jsonl", "dataset.path=rows.jsonl")
GENERATE = (*BASE, "prompt.template='{{ text }}'")


def outputs(folder: Path, rows: list[Any], *words: str) -> list[dict[str, Any]]:
    """The records of a run over some rows."""
    write_rows(folder / "rows.jsonl", rows)
    succeed(folder, *words)
    return records(sorted((folder / "outputs" / "x").iterdir())[-1] / "outputs.jsonl")


def test_the_files_of_a_run(tmp_path: Path) -> None:
    articles(tmp_path, 5)
    result = succeed(tmp_path, "+recipe=demo", *NULL, "dataset.path=articles.jsonl")
    folder = only_run(tmp_path)
    names = {path.name for path in folder.iterdir()} - {"journal.sqlite-wal", "journal.sqlite-shm"}
    assert names == {
        "config.yaml", "dataset_rows.sha256", "errors.jsonl", "journal.sqlite", "manifest.json", "metrics.json",
        "outputs.jsonl", "outputs.parquet", "report.html", "report.md", "requests.parquet", "run.lock", "run.log",
    }  # fmt: skip
    assert f"outputs  {folder}" in result.stdout
    assert f"report   {folder}/report.html" in result.stdout
    assert "output tokens/s" in result.stdout
    found = records(folder / "outputs.jsonl")
    assert [list(record) for record in found] == [
        ["id", "title", "output", "finish_reason", "prompt_tokens", "output_tokens"]
    ] * 5
    assert pq.read_table(folder / "outputs.parquet").to_pylist() == found
    requests = pq.read_table(folder / "requests.parquet").to_pylist()
    assert [row["index"] for row in requests] == list(range(5))
    assert [row["id"] for row in requests] == [record["id"] for record in found]
    assert [row["output_tokens"] for row in requests] == [record["output_tokens"] for record in found]
    assert all(0 <= row["arrival_s"] <= row["first_token_s"] <= row["last_token_s"] for row in requests)
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["rows/ok"] == 5
    assert metrics["tokens/output"] == sum(record["output_tokens"] for record in found)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == ["runner", "+recipe=demo", *NULL, "dataset.path=articles.jsonl"]
    assert manifest["dataset"]["rows"] == 5
    assert manifest["outputs"].keys() == {"outputs.jsonl", "outputs.parquet", "errors.jsonl"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["name"], config["engine"]["kind"]) == ("demo", "null_engine")


def test_the_saved_config_is_the_runs_configuration(tmp_path: Path) -> None:
    outputs(tmp_path, [{"text": "a"}], *GENERATE, "sampling.max_tokens=7")
    saved = parse(yaml.safe_load((only_run(tmp_path, "x") / "config.yaml").read_text()))
    assert isinstance(saved.sampling, SamplingParams)
    assert saved.sampling.max_tokens == 7
    assert saved.name == "x"


def test_finished_in_any_order_written_in_the_datasets(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}"} for n in range(200)]
    words = (*GENERATE, "sampling.max_tokens=50", "engine.max_num_seqs=7")
    plain = outputs(tmp_path, rows, *words)
    assert [record["id"] for record in plain] == [str(n) for n in range(200)]
    assert outputs(tmp_path, rows, *words, "dataset.shuffle_seed=3") == plain
    assert len({record["output"] for record in plain}) == 200


def test_what_the_record_keeps(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": 1, "more": {"x": [1]}}, {"text": "b", "n": 2.5}, {"text": "ü\ud800", "n": None}]
    words = (*BASE, "prompt.template='{{ n }}'", "task.keep_columns=[n,more]", "task.keep_prompt=true",
             "task.keep_token_ids=true", "sinks=[{kind: jsonl},{kind: parquet}]")  # fmt: skip
    one, two, three = outputs(tmp_path, rows, *words)
    assert (one["n"], one["more"], one["prompt"]) == (1, {"x": [1]}, "1")
    assert (two["more"], three["n"], three["prompt"]) == (None, None, "None")
    assert len(one["token_ids"]) == one["output_tokens"]
    table = pq.read_table(only_run(tmp_path, "x") / "outputs.parquet")
    assert table.column("n").to_pylist() == [1.0, 2.5, None]
    assert table.column("token_ids").to_pylist()[0] == one["token_ids"]


def test_columns_without_a_common_type_are_json_in_parquet(tmp_path: Path) -> None:
    rows = [{"text": "a", "odd": 1}, {"text": "b", "odd": "two"}, {"text": "c", "odd": {"three": 3}}]
    outputs(tmp_path, rows, *GENERATE, "task.keep_columns=[odd]")
    table = pq.read_table(only_run(tmp_path, "x") / "outputs.parquet")
    assert [json.loads(value) for value in table.column("odd").to_pylist()] == [1, "two", {"three": 3}]


def test_sampling_columns_replace_row_by_row(tmp_path: Path) -> None:
    rows = [{"text": "a", "max_tokens": 3}, {"text": "b", "max_tokens": 9}, {"text": "c", "max_tokens": None},
            {"text": "d", "max_tokens": -1}]  # fmt: skip
    found = outputs(
        tmp_path, rows, *GENERATE, "task.sampling_columns=[max_tokens]", "sampling.ignore_eos=true",
        "sampling.max_tokens=5", "max_error_rate=0.5",
    )  # fmt: skip
    assert [record["output_tokens"] for record in found] == [3, 9, 5]
    (error,) = records(only_run(tmp_path, "x") / "errors.jsonl")
    assert "max_tokens=-1 is not allowed" in error["error"]


def test_several_completions_are_lists(tmp_path: Path) -> None:
    (found,) = outputs(tmp_path, [{"text": "a"}], *GENERATE, "sampling.n=3")
    assert len(set(found["output"])) == 3
    assert len(found["finish_reason"]) == 3
    assert found["output_tokens"] % 3 == 0


def test_conversations_from_a_column_and_from_turns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello"}]
    rows = [{"talk": turns, "name": "Ada"}, {"talk": [], "name": "Bob"}]
    chat = (*BASE, "task=chat", "task.keep_prompt=true", "max_error_rate=0.5")
    (found,) = outputs(tmp_path, rows, *chat, "prompt.messages=talk")
    assert found["prompt"] == turns
    (error,) = records(only_run(tmp_path, "x") / "errors.jsonl")
    assert "'talk' must hold a list of {role, content}" in error["error"]
    written = "prompt.messages=[{role: system, content: 'Be brief.'}, {role: user, content: 'I am {{ name }}.'}]"
    both = outputs(tmp_path, rows, *chat, written)
    assert both[1]["prompt"][1] == {"role": "user", "content": "I am Bob."}


def test_how_many_rows_may_be_cut_is_the_recipes_choice(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}"} for n in range(12)]
    words = (*GENERATE, "sampling.max_tokens=1")  # every row ends at its limit
    for allowed, word in (("null", "INVALID"), ("0.99", "INVALID"), ("1.0", "VALID")):
        outputs(tmp_path, rows, *words, f"max_truncated_rate={allowed}")
        report = (run_dirs(tmp_path, "x")[-1] / "report.md").read_text()
        assert report.startswith(f"# x: {word}\n"), allowed
        assert ("12 rows of 12 (100 %) were cut at the token limit" in report) == (word == "INVALID")
    digests = {json.loads((path / "manifest.json").read_text())["config_hash"] for path in run_dirs(tmp_path, "x")}
    assert len(digests) == 1  # a verdict changes no record


def test_the_dataset_is_counted_apart_from_the_journal(tmp_path: Path) -> None:
    articles(tmp_path, 12)
    with (tmp_path / "articles.jsonl").open("a") as stream:
        stream.write("\n  \n")  # empty lines are no rows
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl", "max_truncated_rate=1.0")
    succeed(tmp_path, *words)
    manifest = only_run(tmp_path) / "manifest.json"
    assert json.loads(manifest.read_text())["dataset"]["rows"] == 12
    manifest.unlink()
    with sqlite3.connect(only_run(tmp_path) / "journal.sqlite") as database:  # as if killed before its end
        database.execute("UPDATE meta SET value = '\"running\"' WHERE key = 'state'")
        database.execute("DELETE FROM rows WHERE idx = 5")
        database.execute("DELETE FROM meta WHERE key = 'dataset_rows'")
    succeed(tmp_path, *words)  # of which one row is new
    assert json.loads(manifest.read_text())["dataset"]["rows"] == 12
    assert (only_run(tmp_path) / "report.md").read_text().startswith("# demo: VALID\n")


def test_embeddings(tmp_path: Path) -> None:
    found = outputs(
        tmp_path, [{"text": "a"}, {"text": "b"}, {"text": ""}], *GENERATE, "task=embed", "max_error_rate=0.5"
    )
    assert [list(record) for record in found] == [["id", "output", "prompt_tokens"]] * 2
    assert found[0]["output"] != found[1]["output"]
    table = pq.read_table(only_run(tmp_path, "x") / "outputs.parquet")
    assert str(table.schema.field("output").type) == "list<element: float>"
    (error,) = records(only_run(tmp_path, "x") / "errors.jsonl")
    assert "empty" in error["error"]
    for request in pq.read_table(only_run(tmp_path, "x") / "requests.parquet").to_pylist()[:2]:
        assert request["first_token_s"] is None
        assert request["last_token_s"] >= request["arrival_s"]


def test_token_ids_need_no_text(tmp_path: Path) -> None:
    rows = [{"ids": [1, 2, 3]}, {"ids": "no"}, {"ids": [1, -2]}]
    (found,) = outputs(tmp_path, rows, *BASE, "prompt.token_ids=ids", "max_error_rate=0.7")
    assert found["prompt_tokens"] == 3
    assert len(records(only_run(tmp_path, "x") / "errors.jsonl")) == 2


def test_optional_columns_are_the_templates_matter(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "hint": "h"}]
    template = "prompt.template='{% if hint is defined %}{{ hint }}{% endif %}{{ text }}'"
    found = outputs(tmp_path, rows, *BASE, template, "task.keep_prompt=true")
    assert [record["prompt"] for record in found] == ["a", "hb"]


def test_templates_cannot_reach_python(tmp_path: Path) -> None:
    rows = [{"text": "a"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    template = "prompt.template='{{ text.__class__.__mro__ }}'"
    succeed(tmp_path, *BASE, template, "max_error_rate=1.0")
    (error,) = records(only_run(tmp_path, "x") / "errors.jsonl")
    assert "prompt.template" in error["error"]


def test_mlflow_hears_of_a_killed_and_of_a_finished_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    articles(tmp_path, 40)
    words = ("+recipe=demo", "engine=null_engine", "dataset.path=articles.jsonl", "dataset.limit=null",
             "engine.max_num_seqs=2", "engine.seconds_per_step=0.02", "sampling.max_tokens=8")  # fmt: skip
    process = start(tmp_path, *words)
    wait_for_rows(process, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, err
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    (killed,) = client.search_runs([experiment.experiment_id])
    assert killed.info.status == "KILLED"
    result = succeed(tmp_path, *words)
    (finished,) = client.search_runs([experiment.experiment_id])
    assert finished.info.status == "FINISHED"
    assert finished.info.run_id == killed.info.run_id
    assert finished.data.metrics["rows_ok" if "rows_ok" in finished.data.metrics else "rows/ok"] == 40
    assert f"ui --backend-store-uri sqlite:///{tmp_path}/outputs/mlflow.db" in result.stdout


def test_each_session_notes_its_work(tmp_path: Path) -> None:
    """A session that is asked to end notes it, and the figures sum over both."""
    articles(tmp_path, 40)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl", "engine.seconds_per_step=0.02",
             "engine.max_num_seqs=4", "sampling.max_tokens=8", "dataset.limit=null")  # fmt: skip
    process = start(tmp_path, *words)
    wait_for_rows(process, tmp_path, 8)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    succeed(tmp_path, *words)
    folder = only_run(tmp_path)
    with sqlite3.connect(folder / "journal.sqlite") as database:
        notes = dict(database.execute("SELECT key, value FROM meta WHERE key LIKE 'work_%'"))
    first, second = (json.loads(notes[f"work_{number}"]) for number in (1, 2))
    content = json.loads((folder / "metrics.json").read_text())
    busy, measured = (sum(part[name] for part in (first, second)) for name in ("busy_seconds", "measured_seconds"))
    assert content["metrics"]["measured_s"] == pytest.approx(measured, abs=0.1)
    assert content["metrics"]["engine_busy_share"] == pytest.approx(busy / measured)
    assert content["notes"]["mbu"] == "the engine does not count what its steps compute"
    assert content["notes"]["energy_j"] == "the engine used no GPU"
