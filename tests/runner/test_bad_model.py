"""A model or an engine argument that cannot be is one message before the first row; exit code 2, no traceback."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.model.files import resolve_model
from runner.cli import main
from tests.runner.launch import only_run, refused

SMOLLM = "model.name=smollm2-135m-instruct"
TEXT = ("name=x", "tracking=none", "progress=false", "dataset=inline", "dataset.rows=[a]", "engine.device=cpu",
        "prompt.template='{{ text }}'")  # fmt: skip
IDS = ("name=x", "tracking=none", "progress=false", "dataset=synthetic", "prompt.token_ids=prompt_token_ids",
       "dataset.rows=1", "engine.device=cpu", "engine.skip_tokenizer_init=true", "sampling.detokenize=false",
       "sampling.max_tokens=2")  # fmt: skip

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64,
    "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip


def model_folder(folder: Path, config: Any = TINY, weights: bytes = b"") -> str:
    """A model's folder with these files; the override that names it."""
    path = folder / "model"
    path.mkdir()
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights:
        (path / "model.safetensors").write_bytes(weights)
    return f"model.name={path}"


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in TINY.items() if name != key}


def truncated_safetensors() -> bytes:
    """A header that promises more bytes than follow."""
    header = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 64


def incomplete_safetensors() -> bytes:
    """A sound file without most of the tensors."""
    header = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 128


def gguf(folder: Path, size: int, damage: bytes = b"") -> str:
    """The beginning of SmolLM2's own GGUF file, with other first bytes."""
    source = resolve_model("smollm2-135m-instruct").gguf
    assert source is not None
    with source.open("rb") as stream:
        data = bytearray(stream.read(size))
    data[: len(damage)] = damage
    (folder / "damaged.gguf").write_bytes(data)
    return f"model.name={folder / 'damaged.gguf'}"


Words = Callable[[Path], tuple[str, ...]]
CASES: dict[str, tuple[Words, list[str]]] = {
    "misspelt model": (lambda _: (*TEXT, "model.name=smollm3-135m"), ["'smollm3-135m'", "'smollm2-135m-instruct'"]),
    "model that is nowhere": (lambda _: (*TEXT, "model.name=nobody/nothing"), ["'nobody/nothing'", "a local folder"]),
    "folder that is not there": (lambda _: (*TEXT, "model.name=./models/mine"), ["'./models/mine'", "no such file"]),
    "folder without a model": (lambda path: (*TEXT, f"model.name={path}"), ["no config.json"]),
    "unsupported architecture": (
        lambda path: (*IDS, model_folder(path, TINY | {"architectures": ["GPT2LMHeadModel"]}, b"x")),
        ["'GPT2LMHeadModel'", "LlamaForCausalLM"],
    ),
    "unsupported option": (
        lambda path: (*IDS, "model.load_format=dummy", model_folder(path, TINY | {"hidden_act": "gelu"})),
        ["hidden_act='gelu'", "silu"],
    ),
    "incomplete config": (
        lambda path: (*IDS, "model.load_format=dummy", model_folder(path, without("hidden_size"))),
        ["hidden_size"],
    ),
    "damaged config": (lambda path: (*IDS, model_folder(path, "{", b"x")), ["config.json", "JSON"]),
    "longer than the model": (
        lambda _: (*TEXT, SMOLLM, "engine.max_model_len=100000"),
        ["max_model_len=100000", "8192"],
    ),
    "cache too small for one sequence": (
        lambda _: (*TEXT, SMOLLM, "engine.kv_cache_memory_bytes=1000"),
        ["max_model_len=8192", "kv_cache_memory_bytes="],
    ),
    "dtype that the device lacks": (lambda _: (*TEXT, SMOLLM, "model.dtype=float16"), ["dtype='float16'", "bfloat16"]),
    "task that the model lacks": (lambda _: (*TEXT, SMOLLM, "task=embed"), ["'pooling'", "generate"]),
    "no weights": (lambda path: (*IDS, model_folder(path)), ["no .safetensors weights", "load_format=dummy"]),
    "truncated safetensors": (
        lambda path: (*IDS, model_folder(path, weights=truncated_safetensors())),
        ["model.safetensors", "not a readable safetensors file"],
    ),
    "safetensors without a tensor": (
        lambda path: (*IDS, model_folder(path, weights=incomplete_safetensors())),
        ["no tensor 'model.embed_tokens.weight'"],
    ),
    "GGUF of other bytes": (lambda path: (*TEXT, gguf(path, 999, b"no")), ["damaged.gguf", "not a readable GGUF"]),
    "GGUF cut in its metadata": (lambda path: (*TEXT, gguf(path, 5000)), ["damaged.gguf", "not a readable GGUF"]),
    "GGUF cut in its tensors": (lambda path: (*TEXT, gguf(path, 3_000_000)), ["damaged.gguf", "not a readable GGUF"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words, expected = CASES[name]
    code = main(words(tmp_path))
    out, err = capfd.readouterr()
    assert code == 2, err
    assert "Traceback" not in out + err
    assert err.count("error: ") == 1
    assert "resume with" not in err  # the same command can only fail again
    for part in expected:
        assert part in err
    assert "Traceback" in (only_run(tmp_path, "x") / "run.log").read_text()  # for whoever looks for more


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    message = refused(tmp_path, *TEXT, "model.name=smollm3-135m")
    assert "did you mean 'smollm2-135m-instruct'?" in message.replace("Did", "did")


def test_what_fails_while_rows_run_is_another_exit_code(tmp_path: Path) -> None:
    message = refused(tmp_path, *TEXT[:-2], TEXT[-1], "model.name=none", "engine=null_engine", "engine.fail_after=0",
                      code=1)  # fmt: skip
    assert "the engine failed while running" in message
    assert "resume with: runner" in message
