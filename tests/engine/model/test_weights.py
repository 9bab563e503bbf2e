"""Configurations, safetensors, digests and dummy weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.model import cache
from engine.model.files import ModelFiles, resolve_model
from engine.model.weights import (
    ConfigError,
    dummy_weights,
    iter_weights,
    read_config,
    read_generation_config,
    weight_digest,
)

CPU = torch.device("cpu")


def folder_with(folder: Path, **jsons: Any) -> ModelFiles:
    for name, content in jsons.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    return ModelFiles("m", folder, None, tuple(sorted(folder.glob("*.safetensors"))))


def test_gguf_config_equals_transformers_reading() -> None:
    from transformers import AutoConfig

    files = resolve_model("smollm2-135m-instruct")
    assert files.gguf is not None
    reference = AutoConfig.from_pretrained(str(files.gguf.parent), gguf_file=files.gguf.name)
    config = read_config(files, {"max_position_embeddings": 77})
    keys = ["model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"]
    keys += ["intermediate_size", "vocab_size", "tie_word_embeddings", "bos_token_id", "eos_token_id", "hidden_act"]
    assert {key: config[key] for key in keys} == {key: getattr(reference, key) for key in keys}
    assert np.float32(config["rms_norm_eps"]) == np.float32(reference.rms_norm_eps)
    assert config["rope_theta"] == reference.rope_parameters["rope_theta"]
    assert config["max_position_embeddings"] == 77
    assert read_generation_config(files) == {"bos_token_id": 1, "eos_token_id": [2]}


def test_text_config_is_lifted_and_overrides_win(tmp_path: Path) -> None:
    text = {"model_type": "inner", "hidden_size": 8, "architectures": None, "eos_token_id": None}
    outer = {"architectures": ["Outer"], "model_type": "outer", "eos_token_id": 5, "text_config": text}
    config = read_config(folder_with(tmp_path, config=outer), {"hidden_size": 9})
    assert config == {"architectures": ["Outer"], "model_type": "inner", "hidden_size": 9, "eos_token_id": 5}


def test_rope_parameters_become_theta_and_scaling(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
    config = read_config(folder_with(tmp_path, config={"rope_parameters": rope}), {})
    assert (config["rope_theta"], config["rope_scaling"]) == (5e5, {"rope_type": "llama3", "factor": 8.0})
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    config = read_config(folder_with(tmp_path, config=plain), {})
    assert config["rope_theta"] == 1e4
    assert "rope_scaling" not in config


def test_generation_config_is_optional(tmp_path: Path) -> None:
    assert read_generation_config(folder_with(tmp_path)) == {}
    assert read_generation_config(folder_with(tmp_path, generation_config={"eos_token_id": [1, 2]})) == {
        "eos_token_id": [1, 2]
    }


@pytest.mark.parametrize(
    ("content", "expected"), [("{", "not valid JSON"), ("[1]", "expected a JSON object, found list"), (None, "read")]
)
def test_bad_config_is_named(tmp_path: Path, content: str | None, expected: str) -> None:
    files = folder_with(tmp_path, **({} if content is None else {"config": content}))
    with pytest.raises(ConfigError, match=f"{tmp_path}/config.json: .*{expected}"):
        read_config(files, {})


def test_sharded_safetensors_come_whole_in_their_dtypes(tmp_path: Path) -> None:
    weights = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "c": torch.randn(2, 2).half(),
        "ids": torch.arange(3),
    }
    save_file({name: weights[name] for name in ("a", "b")}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({name: weights[name] for name in ("c", "ids")}, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "config.json").write_text("{}")
    found = dict(iter_weights(resolve_model(str(tmp_path))))
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight)


def test_damaged_safetensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ConfigError, match=r"model\.safetensors: not a readable safetensors file"):
        list(iter_weights(folder_with(tmp_path)))


def test_minilm_weights_equal_safetensors_own_loader() -> None:
    from safetensors.torch import load_file

    files = resolve_model("all-minilm-l6-v2")
    expected = load_file(files.weight_files[0])
    found = dict(iter_weights(files))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_digest_follows_contents_and_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALLEY_CACHE", str(tmp_path / "cache"))
    read: list[Path] = []
    original = cache._sha256
    monkeypatch.setattr(cache, "_sha256", lambda path: read.append(path) or original(path))  # type: ignore[func-returns-value]
    folder = tmp_path / "m"
    folder.mkdir()
    save_file({"a": torch.zeros(3)}, folder / "a.safetensors")
    save_file({"b": torch.zeros(3)}, folder / "b.safetensors")
    files = folder_with(folder)
    first = weight_digest(files)
    assert weight_digest(files) == first
    assert len(read) == 2, "the second digest came from the cache"
    save_file({"b": torch.ones(3)}, folder / "b.safetensors")
    assert weight_digest(files) != first
    assert len(read) == 3, "only the changed file was read again"
    assert weight_digest(ModelFiles("m", folder, None, ())) == "none"


def test_digest_without_a_writable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in_the_way").write_text("")
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    monkeypatch.setenv("GALLEY_CACHE", str(tmp_path / "cache"))
    expected = weight_digest(folder_with(tmp_path))
    monkeypatch.setenv("GALLEY_CACHE", str(tmp_path / "in_the_way"))
    assert weight_digest(folder_with(tmp_path)) == expected


SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (1000, 64),
    "model.layers.0.self_attn.q_proj.weight": (256, 1024),
    "model.layers.0.self_attn.q_proj.bias": (256,),
    "model.layers.0.input_layernorm.weight": (1024,),
    "embeddings.LayerNorm.bias": (1024,),
}


def test_dummy_weights_depend_on_seed_and_name_alone() -> None:
    first = dict(dummy_weights(SHAPES, 1, torch.float32, CPU))
    torch.manual_seed(99)
    backwards = dict(dummy_weights(dict(reversed(SHAPES.items())), 1, torch.float32, CPU))
    alone = dict(dummy_weights({name: SHAPES[name] for name in list(SHAPES)[2:3]}, 1, torch.float32, CPU))
    assert first.keys() == SHAPES.keys()
    for name in first:
        assert torch.equal(first[name], backwards[name])
    assert all(torch.equal(alone[name], first[name]) for name in alone)
    other = dict(dummy_weights(SHAPES, 2, torch.float32, CPU))
    assert not any(torch.equal(first[name], other[name]) for name in first)
    half = dict(dummy_weights(SHAPES, 1, torch.bfloat16, CPU))
    assert all(torch.equal(half[name], first[name].bfloat16()) for name in first)


def test_dummy_weights_have_a_trained_models_scale() -> None:
    weights = dict(dummy_weights(SHAPES, 0, torch.float32, CPU))
    matrix = weights["model.layers.0.self_attn.q_proj.weight"]
    assert (torch.randn(50, 1024) @ matrix.T).std().item() == pytest.approx(1.0, rel=0.05)
    norm = weights["model.layers.0.input_layernorm.weight"]
    assert norm.mean().item() == pytest.approx(1.0, abs=0.01)
    assert 0 < norm.std().item() < 0.1
    assert weights["embeddings.LayerNorm.bias"].abs().max() < 0.2
    logits = torch.randn(50, 64) @ weights["model.embed_tokens.weight"].T
    assert 1 < logits.std().item() < 4
