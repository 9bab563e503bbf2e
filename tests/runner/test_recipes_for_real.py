"""The built-in recipes on the real models and on dummy weights, cut to two rows: they run, and their records are whole.

All run in one process, one after the other, because importing torch anew takes longer than the rows do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from runner.cli import main
from tests.runner.launch import only_run, records

COMMON = ("tracking=none", "progress=false", "engine.device=cpu")
SHORT = ("sampling.max_tokens=8",)
SYNTHETIC = ("dataset.rows=2", "dataset.input_length.tokens=20", "dataset.output_length.tokens=8")
TEXTS = {"sea.txt": "The sea is wide and blue. Ships cross it slowly.", "sub/hill.txt": "A hill is a small mountain."}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, recipe: str, *words: str) -> tuple[Path, list[dict[str, Any]]]:
    """Run a recipe; its folder and its records, which are the same in JSON lines and in Parquet."""
    assert main([f"+recipe={recipe}", *COMMON, *words]) == 0
    path = only_run(folder, recipe)
    found = records(path / "outputs.jsonl")
    table = pq.read_table(path / "outputs.parquet").to_pylist()
    assert [list(row) for row in table] == [list(row) for row in found]
    assert [row["id"] for row in table] == [row["id"] for row in found]
    assert (path / "errors.jsonl").read_text() == ""
    return path, found


def check_texts(found: Sequence[dict[str, Any]]) -> None:
    """Two rows of text within the limit."""
    assert len(found) == 2
    for row in found:
        assert row["output"].strip()
        assert 1 <= row["output_tokens"] <= 8
        assert row["finish_reason"] in ("stop", "length")
    assert found[0]["output"] != found[1]["output"]


def test_chat_and_its_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, found = run(here, "chat", *SHORT, "dataset.limit=2")
    check_texts(found)
    assert all(row["question"] and row["category"] for row in found)
    before = (path / "report.html").read_bytes()
    (path / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", str(path)]) == 0
    assert str(path / "report.html") in capsys.readouterr().out
    assert (path / "report.html").read_bytes() == before
    assert found[0]["output"].split()[0] in before.decode()


def test_drafts_change_no_record(here: Path) -> None:
    """The same rows to the byte with prompt lookup; the report says what the drafts were worth."""
    short = ("sampling.max_tokens=24", "sampling.repetition_penalty=1", "dataset.limit=2")
    path, found = run(here, "prompt_lookup", *short)
    _, plain = run(here, "demo", *short)
    assert found == plain
    metrics = json.loads((path / "metrics.json").read_text())["metrics"]
    assert 0 <= metrics["drafts/accepted"] <= 1 <= metrics["drafts/length"]


def check_roofline(path: Path) -> None:
    """The shares are what their definitions say, and no run is faster than its machine."""
    content = json.loads((path / "metrics.json").read_text())
    flat, detail = content["metrics"], content["roofline"]
    busy = flat["engine_busy_share"] * flat["measured_s"]
    assert flat["mbu"] == pytest.approx(flat["work/gb"] / (busy * flat["ceiling/read_gb_per_s"]))
    assert flat["mfu"] == pytest.approx(flat["work/tflop"] / (busy * flat["ceiling/matmul_tflop_per_s"]))
    by_work = flat["work/tflop"] / flat["ceiling/matmul_tflop_per_s"], flat["work/gb"] / flat["ceiling/read_gb_per_s"]
    assert max(by_work) * 0.999 <= flat["floor_s"] <= sum(by_work)
    assert flat["floor_share"] == pytest.approx(flat["floor_s"] / flat["measured_s"])
    assert 0 < flat["floor_share"] <= 1.05
    assert 0 < flat["engine_busy_share"] <= 1
    assert sum(group["steps"] for group in detail["groups"]) == content["engine"]["steps"]
    for name in ("energy_j", "energy_j_per_output_token", "power_w/mean", "device_busy_share"):
        assert (flat[name], content["notes"][name]) == (None, "the engine ran on the CPU")


def test_demo_is_measured_against_its_machine(here: Path) -> None:
    path, _ = run(here, "demo", *SHORT, "dataset.limit=2")
    check_roofline(path)
    assert "Distance to the roofline" in (path / "report.md").read_text()


def test_without_the_roofline_nothing_is_made_up(here: Path) -> None:
    path, _ = run(here, "throughput", *SYNTHETIC, "measure.roofline=false")
    content = json.loads((path / "metrics.json").read_text())
    assert (content["metrics"]["mbu"], content["notes"]["mbu"]) == (None, "measure.roofline is off")
    assert content["metrics"]["work/gb"] > 0
    assert content["roofline"] is None


def test_summaries_are_judged(here: Path) -> None:
    """The records and the figures of two rows; too short to meet what the recipe requires of whole summaries."""
    path, found = run(here, "summarize_quality", *SHORT, "dataset.limit=2", "require=['output_words <= 8']")
    check_texts(found)
    words = [len(row["output"].split()) for row in found]
    assert pq.read_table(path / "scores.parquet")["output_words"].to_pylist() == words
    flat = json.loads((path / "metrics.json").read_text())["metrics"]
    assert 0 <= flat["rouge2"] <= flat["rouge1"] < 0.5
    assert flat["rouge1/low"] is None


def test_extract_json(here: Path) -> None:
    path, found = run(here, "extract_json", "dataset.limit=2")
    assert json.loads((path / "metrics.json").read_text())["metrics"]["json_valid"] == 1
    assert [row["finish_reason"] for row in found] == ["stop", "stop"]
    values = [json.loads(row["output"]) for row in found]
    assert values[0] != values[1]
    for value in values:
        assert list(value) == ["subject", "names", "past"]
        assert isinstance(value["past"], bool)
        assert 1 <= len(value["names"]) <= 3


def test_summarize_files_of_ones_own(here: Path) -> None:
    (here / "notes" / "sub").mkdir(parents=True)
    for name, text in TEXTS.items():
        (here / "notes" / name).write_text(text)
    _, found = run(here, "summarize", *SHORT, "dataset.path=notes")
    check_texts(found)
    assert [row["id"] for row in found] == ["sea.txt", "sub/hill.txt"]


def test_one_job_of_the_sweep_demo_alone(here: Path) -> None:
    _, found = run(here, "sweep_demo", *SHORT, "dataset.limit=2", "engine.max_num_seqs=2", "hydra.mode=RUN")
    check_texts(found)


def test_embed(here: Path) -> None:
    path, found = run(here, "embed", "dataset.limit=2")
    assert [len(row["output"]) for row in found] == [384, 384]
    for row in found:
        assert math.isclose(math.hypot(*row["output"]), 1.0, abs_tol=1e-4)
    assert found[0]["output"] != found[1]["output"]
    check_roofline(path)
    for request in pq.read_table(path / "requests.parquet").to_pylist():
        assert request["first_token_s"] is None
        assert 0 <= request["arrival_s"] <= request["last_token_s"]


@pytest.mark.parametrize("recipe", ["throughput", "latency"])
def test_synthetic_rows_on_dummy_weights(here: Path, recipe: str) -> None:
    path, found = run(here, recipe, *SYNTHETIC)
    assert [(row["prompt_tokens"], row["output_tokens"], row["output"]) for row in found] == [(20, 8, "")] * 2
    flat = json.loads((path / "metrics.json").read_text())["metrics"]
    assert (flat["tokens/prompt"], flat["tokens/output"]) == (40, 16)
    assert flat["running/peak"] == (1 if recipe == "latency" else 2)
    assert flat["output_tokens_per_s"] == pytest.approx(16 / flat["measured_s"])


def test_a_prompt_longer_than_the_model_takes_is_an_error_row(here: Path) -> None:
    rows = f"dataset.rows=[short,'{'long ' * 200}']"
    words = ("name=x", *COMMON, *SHORT, "model=smollm2", "engine.max_model_len=64", "dataset=inline", rows)
    assert main([*words, "prompt.template='{{ text }}'", "max_error_rate=0.5"]) == 0
    path = only_run(here, "x")
    assert [row["id"] for row in records(path / "outputs.jsonl")] == ["0"]
    (error,) = records(path / "errors.jsonl")
    assert error["row"] == 1
    assert "64" in error["error"]


def test_load_changes_no_record(here: Path) -> None:
    """Chat users who arrive one by one get what an offline run gives; the report has a reader's times."""
    words = (*SHORT, "dataset.limit=4")
    path, found = run(here, "load_demo", *words, "load.rate=20", "load.warmup=1", "load.max_lag_ms=600000")
    _, offline = run(here, "chat", *words, "task.keep_columns=[question]")
    assert found == offline
    content = json.loads((path / "metrics.json").read_text())
    assert content["load"]["requests"] == 3
    assert content["metrics"]["itl_ms/mean"] > 0
    assert content["metrics"]["load/lag_max_ms"] >= 0
    assert content["timeline"]["time_s"]


def test_embeddings_under_load(here: Path) -> None:
    words = ("dataset.limit=6", "load=concurrency", "load.users=2", "load.goodput.e2e_ms=600000")
    path, found = run(here, "embed", *words)
    assert len(found) == 6
    assert json.loads((path / "metrics.json").read_text())["metrics"]["load/good_share"] == 1


def test_few_shot_examples_are_computed_once(here: Path) -> None:
    path, found = run(here, "few_shot", "dataset.limit=3", "engine.block_size=16", "engine.max_num_seqs=1")
    assert len(found) == 3
    assert json.loads((path / "metrics.json").read_text())["metrics"]["prefix_hit_rate"] > 0.3
    assert all(row["output"].strip() for row in found)


def test_a_batch_file(here: Path) -> None:
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    messages = [{"role": "user", "content": "Name a colour."}]
    bodies = [
        {"messages": messages, "max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 2},
        {"messages": messages, "max_tokens": 3, "temperature": 0},
    ]
    lines = [json.dumps({**request, "custom_id": str(n), "body": body}) for n, body in enumerate(bodies)]
    (here / "requests.jsonl").write_text("\n".join(lines))
    assert main(["+recipe=openai_batch", *COMMON, "dataset.path=requests.jsonl"]) == 0
    first, second = (
        line["response"]["body"] for line in records(only_run(here, "openai_batch") / "batch_output.jsonl")
    )
    (choice,) = first["choices"]
    content = choice["logprobs"]["content"]
    assert "".join(one["token"] for one in content).startswith(choice["message"]["content"])
    assert all(one["logprob"] == max(top["logprob"] for top in one["top_logprobs"]) for one in content)  # greedy
    assert choice["message"]["content"].startswith(second["choices"][0]["message"]["content"])
