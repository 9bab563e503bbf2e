"""``runner replay``: what it verifies, what it names, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from tests.runner.launch import NULL, articles, only_run, records, refused, run, succeed, write_rows

DEMO = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl")


def replay(folder: Path, *words: str, code: int = 0) -> str:
    result = run(folder, "replay", *words)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


@pytest.fixture
def original(tmp_path: Path) -> Path:
    articles(tmp_path, 20)
    succeed(tmp_path, *DEMO)
    return only_run(tmp_path)


def edit_json(path: Path, *keys: str, value: Any) -> Any:
    """Change a value and give the old one."""
    content = json.loads(path.read_text())
    node = content
    for key in keys[:-1]:
        node = node[key]
    before, node[keys[-1]] = node[keys[-1]], value
    path.write_text(json.dumps(content))
    return before


def test_an_unchanged_run_is_reproduced(tmp_path: Path, original: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out = replay(elsewhere, str(original))
    assert "Outputs: identical in all 20 rows" in out
    assert "Verdict: VALID, as before" in out
    assert "REPRODUCED" in out
    (again,) = (tmp_path / "outputs" / "replays" / "demo").iterdir()
    result = json.loads((again / "replay.json").read_text())
    assert result["reproduced"] is True
    assert Path(result["of"]) == original
    report = (again / "report.md").read_text()
    assert "**Reproduced**" in report
    assert "Outputs are identical in all 20 rows" in report
    assert (again / "outputs.jsonl").read_bytes() == (original / "outputs.jsonl").read_bytes()


def test_a_changed_row_is_named_and_nothing_runs(tmp_path: Path, original: Path) -> None:
    rows = records(tmp_path / "articles.jsonl")
    rows[7]["article"] += " And more."
    write_rows(tmp_path / "articles.jsonl", rows)
    out = replay(tmp_path, str(original), code=5)
    assert "1 row changed: 'a7'" in out
    assert "NOT RUN: dataset" in out
    assert not (tmp_path / "outputs" / "replays").exists()
    out = replay(tmp_path, str(original), "--anyway", code=4)
    assert "Outputs: 1 of 20 rows differ" in out
    assert "  a7: first differs at character 0" in out


def test_missing_new_and_moved_rows_are_told_apart(tmp_path: Path, original: Path) -> None:
    rows = records(tmp_path / "articles.jsonl")
    write_rows(tmp_path / "articles.jsonl", [*rows[5:], {"id": "new", "title": "T", "article": "A"}])
    out = replay(tmp_path, str(original), "--check", code=5)
    assert "5 rows missing: 'a0', 'a1', 'a2', 'a3', 'a4'" in out
    assert "1 row new: 'new'" in out
    assert "changed:" not in out


def test_other_bytes_with_the_same_rows_are_no_change(tmp_path: Path, original: Path) -> None:
    rows = records(tmp_path / "articles.jsonl")
    write_rows(tmp_path / "articles.jsonl", [json.dumps(row, indent=None, separators=(",", ":")) for row in rows])
    out = replay(tmp_path, str(original), "--check")
    assert "other bytes, and the 20 rows are the same" in out


def test_a_library_version_is_named_from_what_to_what(tmp_path: Path, original: Path) -> None:
    now = edit_json(original / "manifest.json", "environment", "packages", "torch", value="2.11.0")
    out = replay(tmp_path, str(original))
    assert f"package torch: 2.11.0 then, {now} now" in out
    (report,) = tmp_path.glob("outputs/replays/demo/*/report.html")
    assert f"package torch: 2.11.0 then, {now} now." in report.read_text()
    assert "REPRODUCED" in out


def test_an_edited_output_of_the_original_is_named_with_its_row(tmp_path: Path, original: Path) -> None:
    rows = records(original / "outputs.jsonl")
    rows[3]["output"] = "something else"
    write_rows(original / "outputs.jsonl", rows)
    out = replay(tmp_path, str(original), code=4)
    assert "outputs.jsonl was changed since, in 'a3'" in out
    assert "  a3: first differs at character 0" in out


def test_another_verdict_has_a_code_of_its_own(tmp_path: Path) -> None:
    articles(tmp_path, 20)
    # the null engine's answers end by themselves in 19 of 20 rows: what is allowed decides the verdict
    succeed(tmp_path, *DEMO, "sampling.max_tokens=4", "max_truncated_rate=1.0")
    original = only_run(tmp_path)
    config = original / "config.yaml"
    config.write_text(config.read_text().replace("max_truncated_rate: 1.0", "max_truncated_rate: 0.0"))
    out = replay(tmp_path, str(original), code=3)
    assert "Verdict: VALID; it was INVALID" in out
    assert "NOT REPRODUCED: another verdict" in out


def test_an_unmet_requirement_is_part_of_the_verdict(tmp_path: Path) -> None:
    articles(tmp_path, 20)
    failed = run(tmp_path, *DEMO, "require=['requests_per_s > 1e12']")
    assert failed.returncode == 3
    out = replay(tmp_path, str(only_run(tmp_path)))
    assert "Verdict: FAILED, as before" in out


def test_wrong_use_is_one_message(tmp_path: Path, original: Path) -> None:
    assert "no-such-folder is not a folder" in refused(tmp_path, "replay", "no-such-folder")
    assert "--chek" in refused(tmp_path, "replay", str(original), "--chek")
    assert "the run's folder is missing" in refused(tmp_path, "replay")
    edit_json(original / "manifest.json", "config", "engine", value={"kind": "null_engine", "speed": 3})
    message = refused(tmp_path, "replay", str(original))
    assert "this version cannot read the configuration" in message
    assert "engine.speed" in message


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def flip_byte(file: Path, tensor: str) -> None:
    """Change one byte in the middle of a tensor."""
    with safe_open(file, "pt") as opened:
        assert tensor in opened.keys()  # noqa: SIM118
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start, end = json.loads(data[8 : 8 + length])[tensor]["data_offsets"]
    data[8 + length + (start + end) // 2] ^= 0x40
    file.write_bytes(data)


def test_a_changed_weight_byte_is_named_with_its_tensor(tmp_path: Path, model: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"ids": [n % 100, 5, 7, 9]} for n in range(1, 13)])
    succeed(
        tmp_path, "name=tiny", "model.name=model", "model.dtype=float32", "dataset=jsonl", "dataset.path=rows.jsonl",
        "prompt.token_ids=ids", "engine.skip_tokenizer_init=true", "engine.max_model_len=64", "sampling=greedy",
        "sampling.max_tokens=6", "sampling.detokenize=false", "task.keep_token_ids=true", "tracking=none",
        "measure.roofline=false", "max_truncated_rate=1.0",
    )  # fmt: skip
    original = only_run(tmp_path, "tiny")
    out = replay(tmp_path, str(original))
    assert "model (3 files): the same" in out  # weights, config and generation config
    assert "Outputs: identical in all 12 rows" in out
    flip_byte(model / "model.safetensors", "model.layers.1.mlp.up_proj.weight")
    out = replay(tmp_path, str(original), "--check", code=5)
    assert "model.safetensors has other bytes, in model.layers.1.mlp.up_proj.weight\n" in out
    (model / "generation_config.json").unlink()
    out = replay(tmp_path, str(original), "--check", code=5)
    assert "generation_config.json is gone" in out


def test_the_demo_on_its_real_model_is_reproduced(tmp_path: Path) -> None:
    few = ("dataset.limit=3", "sampling.max_tokens=6", "prompt.user='{{ article[:200] }}'", "measure.roofline=false")
    succeed(tmp_path, "+recipe=demo", "tracking=none", *few)
    original = only_run(tmp_path)
    out = replay(tmp_path, str(original))
    assert "model (1 file): the same" in out
    assert "Outputs: identical in all 3 rows" in out
    assert "Verdict: INVALID, as before" in out  # of too few samples
    tensors = json.loads((original / "tensors.json").read_text())
    assert len(next(iter(tensors.values()))) == 273  # 272 tensors, and the metadata that holds the tokenizer
