"""GGUF: names, config and values; each quantization type; damaged and unsupported files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q

from engine.model.files import resolve_model
from engine.model.gguf_file import GGUFError, GGUFFile, unpermute
from engine.model.gguf_rope import llama3_factors

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MIDDLE, VOCAB = 256, 4, 2, 64, 512, 300
WRITABLE = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
RAW_ONLY = ["Q4_K", "Q6_K"]  # gguf can only dequantize these: their blocks are drawn at random


def tensor_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """GGUF names and shapes of a model with one layer."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HEADS * HEAD_DIM),
        "blk.0.ffn_gate.weight": (MIDDLE, HIDDEN),
        "blk.0.ffn_up.weight": (MIDDLE, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, MIDDLE),
    }
    if architecture == "qwen2":
        shapes |= {f"blk.0.attn_{part}.bias": shapes[f"blk.0.attn_{part}.weight"][:1] for part in "qkv"}
    if architecture == "qwen3":
        shapes |= {f"blk.0.attn_{part}_norm.weight": (HEAD_DIM,) for part in "qk"}
    return shapes


def encoded(values: np.ndarray[Any, Any], kind: Q, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """``values`` as GGUF bytes, or for types that gguf cannot write random blocks with finite scales."""
    if kind.name not in RAW_ONLY:
        return gguf.quants.quantize(values, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (*values.shape[:-1], values.shape[-1] // block, size), dtype=np.uint8)
    scales = rng.normal(0, 0.01, raw.shape[:-1]).astype(np.float16)[..., None].view(np.uint8)
    at = {"Q4_K": (0, 2), "Q6_K": (size - 2,)}[kind.name]  # where a block keeps its float16 scales
    for start in at:
        raw[..., start : start + 2] = scales
    return raw.reshape(*values.shape[:-1], -1)


def write_gguf(
    path: Path, architecture: str = "llama", kind: Q = Q.F32, extra: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """A GGUF file with one layer; returns what gguf itself dequantizes each tensor to."""
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {number}" for number in range(5000)])
    writer.add_token_types([1] * 5000)
    writer.add_bos_token_id(7)
    writer.add_eos_token_id(9)
    writer.add_eot_token_id(8)
    plain: dict[str, np.ndarray[Any, Any]] = {}
    for name, shape in tensor_shapes(architecture).items():
        own = kind if len(shape) == 2 else Q.F32
        data = encoded(rng.normal(0, 0.1, shape).astype(np.float32), own, rng)
        writer.add_tensor(name, data, raw_dtype=own)
        plain[name] = gguf.quants.dequantize(data, own).reshape(shape)
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value) if isinstance(value, np.ndarray) else writer.add_string(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return plain


def permuted(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp's ``LlamaModel.permute`` (convert_hf_to_gguf.py)."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


@pytest.mark.parametrize("kind", [*WRITABLE, *RAW_ONLY])
def test_every_type_equals_ggufs_dequantization(tmp_path: Path, kind: str) -> None:
    plain = write_gguf(tmp_path / "m.gguf", kind=Q[kind])
    weights = dict(GGUFFile(tmp_path / "m.gguf").tensors())
    assert len(weights) == len(plain)
    up = weights["model.layers.0.mlp.up_proj.weight"]
    assert up.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)
    np.testing.assert_array_equal(up.float().numpy(), plain["blk.0.ffn_up.weight"])
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"].float().numpy(), plain["token_embd.weight"])
    for part, heads in (("q", HEADS), ("k", KV_HEADS)):
        found = weights[f"model.layers.0.self_attn.{part}_proj.weight"].float().numpy()
        np.testing.assert_array_equal(permuted(found, heads), plain[f"blk.0.attn_{part}.weight"])
        assert not np.array_equal(found, plain[f"blk.0.attn_{part}.weight"])


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_qwen_is_not_permuted_and_has_its_own_tensors(tmp_path: Path, architecture: str) -> None:
    plain = write_gguf(tmp_path / "m.gguf", architecture, Q.Q8_0)
    file = GGUFFile(tmp_path / "m.gguf")
    weights = dict(file.tensors())
    names = {"qwen2": ("q_proj.bias", "attn_q.bias"), "qwen3": ("q_norm.weight", "attn_q_norm.weight")}[architecture]
    for found, stored in (names, ("k_proj.weight", "attn_k.weight")):
        np.testing.assert_array_equal(weights[f"model.layers.0.self_attn.{found}"].numpy(), plain[f"blk.0.{stored}"])
    config = file.config()
    assert config["architectures"] == [{"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[architecture]]
    assert config["attention_bias"] == (architecture == "qwen2")


def test_config_follows_the_metadata(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", extra={"output.weight": np.zeros((VOCAB, HIDDEN), np.float32)})
    file = GGUFFile(tmp_path / "m.gguf")
    expected = {
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": MIDDLE,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "vocab_size": VOCAB,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "bos_token_id": 7,
        "eos_token_id": 9,
    }
    assert {key: file.config()[key] for key in expected} == expected
    assert "rope_scaling" not in file.config()
    assert file.generation_config() == {"bos_token_id": 7, "eos_token_id": [8, 9]}


def test_llama3_rope_factors_become_rope_scaling(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = llama3_factors(scaling, 500000.0, HEAD_DIM).astype(np.float32)
    reference = LlamaConfig(
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, **scaling},
    )
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](reference, torch.device("cpu"))
    np.testing.assert_allclose(500000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM) / factors, frequencies, rtol=1e-5)
    write_gguf(tmp_path / "m.gguf", extra={"rope_freqs.weight": factors})
    file = GGUFFile(tmp_path / "m.gguf")
    assert file.config()["rope_scaling"] == {"rope_type": "llama3", **scaling}
    assert all("rope" not in name for name, _ in file.tensors())
    write_gguf(tmp_path / "odd.gguf", extra={"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(ValueError, match=r"odd\.gguf: the factors in rope_freqs\.weight"):
        GGUFFile(tmp_path / "odd.gguf").config()


def test_smollm2_equals_ggufs_own_reading() -> None:
    path = resolve_model("smollm2-135m-instruct").gguf
    assert path is not None
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    weights = dict(GGUFFile(path).tensors())
    assert len(weights) == len(stored) == 272
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
        "blk.11.attn_v.weight": "model.layers.11.self_attn.v_proj.weight",
        "blk.3.attn_q.weight": "model.layers.3.self_attn.q_proj.weight",
        "blk.3.attn_k.weight": "model.layers.3.self_attn.k_proj.weight",
    }
    for name, hf_name in pairs.items():
        expected = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)
        found = weights[hf_name].numpy()
        heads = {"attn_q": 9, "attn_k": 3}.get(name.split(".")[2] if name.startswith("blk") else "")
        np.testing.assert_array_equal(permuted(found, heads) if heads else found, expected)


def test_unpermute_undoes_permute_of_weights_and_biases() -> None:
    for shape in ((12, 5), (12,)):
        weight = torch.arange(float(np.prod(shape))).reshape(shape)
        assert torch.equal(unpermute(torch.from_numpy(permuted(weight.numpy(), 3).copy()), 3), weight)


def test_unsupported_type_names_tensor_and_type(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", extra={"blk.0.ffn_up.bias": np.zeros(8, np.int8)})
    with pytest.raises(GGUFError, match=r"tensor 'blk\.0\.ffn_up\.bias' has type I8, which is not supported; Q4_0, "):
        dict(GGUFFile(tmp_path / "m.gguf").tensors())


def test_unknown_tensor_and_architecture_are_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", extra={"blk.0.ssm_a.weight": np.zeros(8, np.float32)})
    with pytest.raises(GGUFError, match=r"tensor 'blk\.0\.ssm_a\.weight' is not part of a supported architecture"):
        dict(GGUFFile(tmp_path / "m.gguf").tensors())
    write_gguf(tmp_path / "n.gguf", "gptneox")
    with pytest.raises(GGUFError, match=r"architecture 'gptneox' is not supported; supported: llama, mistral, qwen2"):
        GGUFFile(tmp_path / "n.gguf")


@pytest.mark.parametrize("keep", [0, 3, 40, 5000])
def test_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    write_gguf(tmp_path / "whole.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((tmp_path / "whole.gguf").read_bytes()[:keep])
    with pytest.raises(GGUFError, match=r"broken\.gguf: not a readable GGUF file"):
        GGUFFile(broken)
