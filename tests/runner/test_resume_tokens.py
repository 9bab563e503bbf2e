"""A run that is killed and resumed gives the tokens of an uninterrupted one, whatever its rows ask for."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.runner.launch import only_run, records, start, succeed, wait_for_rows, write_rows

ROWS = 48
ERRORS = {3, 7, 12}
COLUMNS = ("n", "seed", "temperature", "top_p", "top_k", "min_p", "stop", "min_tokens", "presence_penalty",
           "frequency_penalty", "repetition_penalty", "logit_bias", "allowed_token_ids", "bad_words", "logprobs",
           "prompt_logprobs", "structured_outputs", "ignore_eos")  # fmt: skip
# A layer of random weights with SmolLM2's tokenizer: every token is about as likely as any other.
TINY = ("+recipe=demo", "tracking=none", "task=generate", "prompt.system=null", "prompt.user=null",
        "prompt.template='{{ text }}'", "dataset.path=rows.jsonl", "dataset.limit=null", "sampling=default",
        "sampling.max_tokens=12", "sampling.temperature=1.3", "model.load_format=dummy",
        "+model.hf_overrides.num_hidden_layers=1", "engine.max_num_seqs=3", "engine.max_num_batched_tokens=16",
        "engine.kv_cache_memory_bytes=300000000", "task.keep_token_ids=true", "task.keep_columns=[]",
        "max_error_rate=0.1", f"task.sampling_columns=[{','.join(COLUMNS)}]")  # fmt: skip
KINDS: list[dict[str, Any]] = [
    {},  # no seed: drawn from the run's seed and the row's number
    {"seed": 5, "n": 3, "logprobs": 1},
    {"seed": 6, "top_p": 0.8, "top_k": 400, "min_p": 0.001},
    {"seed": 7, "presence_penalty": 0.5, "frequency_penalty": 0.4, "repetition_penalty": 1.3, "n": 2},
    {"n": 2, "logit_bias": {"300": 90.0, "301": 90.5}, "min_tokens": 4},
    {"seed": 8, "structured_outputs": {"regex": "[a-z]{3,9} [0-9]{2}"}, "n": 2, "logprobs": 0},
    {"structured_outputs": {"json": {"type": "object", "properties": {"a": {"enum": ["x", "y", "z"]}},
                                     "required": ["a"], "additionalProperties": False}}},
    {"seed": 9, "allowed_token_ids": list(range(260, 290)), "bad_words": ["the"], "stop": ["s"]},
    {"temperature": 0.0, "prompt_logprobs": 1},
    {"ignore_eos": True, "prompt_logprobs": 0, "n": 2},
]  # fmt: skip


def rows(folder: Path) -> None:
    """Every kind in turn, so that a batch mixes them; rows that cannot be run are among them."""
    made: list[Any] = []
    for i in range(ROWS):
        row: dict[str, Any] = {"id": f"r{i}", "text": f"Row {i} of them: " + "one two three " * (i % 7)}
        made.append(row | dict.fromkeys(COLUMNS) | KINDS[i % len(KINDS)])
    made[3]["text"] = ""  # the engine refuses it
    made[7]["top_p"] = 3.0  # the runner does
    made[12] = "{not json"
    write_rows(folder / "rows.jsonl", made)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("uninterrupted")
    rows(folder)
    succeed(folder, *TINY)
    assert {record["row"] for record in records(only_run(folder) / "errors.jsonl")} == ERRORS
    return (only_run(folder) / "outputs.jsonl").read_bytes()


def test_killed_and_resumed_at_other_rows(tmp_path: Path, uninterrupted: bytes) -> None:
    rows(tmp_path)
    for durable in (8, 26):
        process = start(tmp_path, *TINY)
        wait_for_rows(process, tmp_path, durable)
        process.kill()
        process.communicate()
    succeed(tmp_path, *TINY)
    with sqlite3.connect(only_run(tmp_path) / "journal.sqlite") as database:
        sessions = database.execute("SELECT status, rows FROM sessions ORDER BY number").fetchall()
    assert [status for status, _ in sessions] == ["KILLED", "KILLED", "FINISHED"]
    assert all(count > 0 for _, count in sessions)
    assert (only_run(tmp_path) / "outputs.jsonl").read_bytes() == uninterrupted


def test_rows_do_what_they_ask_for(uninterrupted: bytes) -> None:
    """Without this, rows that ignore their columns would pass the test above."""
    found = {int(record["id"][1:]): record for record in map(json.loads, uninterrupted.splitlines())}
    assert set(found) == set(range(ROWS)) - ERRORS
    by_kind: dict[int, list[Any]] = {kind: [] for kind in range(len(KINDS))}
    for i, record in found.items():
        n = KINDS[i % len(KINDS)].get("n", 1)
        by_kind[i % len(KINDS)] += record["token_ids"] if n > 1 else [record["token_ids"]]
        assert n == 1 or len(record["output"]) == n
    for kind in (0, 1, 2, 3, 9):
        drawn = [tuple(tokens) for tokens in by_kind[kind]]
        assert len(set(drawn)) == len(drawn) > 3, "each draws noise of its own"
    assert all({300, 301} >= set(tokens) for tokens in by_kind[4])
    assert all(re.fullmatch("[a-z]{3,9} [0-9]{2}", text) for text in found[5]["output"])
    assert json.loads(found[6]["output"])["a"] in ("x", "y", "z")
    assert all(set(tokens) <= set(range(260, 290)) | {2} for tokens in by_kind[7])
    assert "logprobs" in found[1]
    assert "prompt_logprobs" in found[8]


def test_all_in_one_batch(tmp_path: Path, uninterrupted: bytes) -> None:
    rows(tmp_path)
    succeed(tmp_path, *TINY, "engine.max_num_seqs=100", "engine.max_num_batched_tokens=2048",
            "engine.enable_prefix_caching=false")  # fmt: skip
    assert (only_run(tmp_path) / "outputs.jsonl").read_bytes() == uninterrupted
