"""GGUF files: metadata as a Hugging Face config, tensors under Hugging Face names, dequantized one at a time.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as QuantType

from engine.model.gguf_rope import rope_config

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_PERMUTED = frozenset({"llama", "mistral"})  # written with the two halves of each rotary pair interleaved
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"  # part of the config here, not a weight
_QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K")
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LONG_ARRAY = 4096  # entries; longer metadata arrays are vocabularies, which nothing here reads
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by GGUF value type


class GGUFError(ValueError):
    """A GGUF file that cannot be used; the message names the file and what in it is at fault."""


class _Reader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf's reader, but stepping over vocabularies: parsing those into Python objects takes 2 s, this 0.1 s."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
        if int(raw_type) == gguf.GGUFValueType.ARRAY:
            item_type, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
            if int(length[0]) > _LONG_ARRAY:
                size = 12 + self._array_bytes(orig_offs + 12, int(item_type[0]), int(length[0]))
                return size, [item_type, length], [], [gguf.GGUFValueType.ARRAY]
        result: tuple[int, list[Any], list[int], list[Any]] = super()._get_field_parts(orig_offs, raw_type)
        return result

    def _array_bytes(self, start: int, item_type: int, length: int) -> int:
        if item_type != gguf.GGUFValueType.STRING:
            return length * _SCALAR_BYTES[item_type]
        position, view = start, memoryview(self.data)
        order = "little" if self.endianess == gguf.GGUFEndian.LITTLE else "big"
        for _ in range(length):
            position += 8 + int.from_bytes(view[position : position + 8], order)  # type: ignore[arg-type]
        return position - start


class GGUFFile:
    """One open GGUF file. Its tensors stay memory-mapped until they are asked for.

    Raises:
        GGUFError: the file is damaged, or its architecture is not one of llama, mistral, qwen2, qwen3.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = _Reader(path)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise GGUFError(f"{path}: not a readable GGUF file: {error}") from None
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.architecture = str(self.value("general.architecture"))
        if self.architecture not in _ARCHITECTURES or self.value(f"{self.architecture}.expert_count", 0):
            kind = "mixture of experts" if self.architecture in _ARCHITECTURES else self.architecture
            known = ", ".join(_ARCHITECTURES)
            raise GGUFError(f"{path}: GGUF architecture {kind!r} is not supported; supported: {known} (dense)")

    def value(self, key: str, default: Any = None) -> Any:
        """The metadata under ``key``; vocabulary arrays are stepped over and come back as an empty list."""
        field = self._reader.get_field(key)
        value = default if field is None else field.contents()
        # float32 as the decimal it was written from: 1e-05, not 9.999999747378752e-06
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def config(self) -> dict[str, Any]:
        """The file's metadata in the form of a Hugging Face ``config.json``."""
        heads = int(self._required("attention.head_count"))
        hidden = int(self._required("embedding_length"))
        config: dict[str, Any] = {
            "architectures": [_ARCHITECTURES[self.architecture]],
            "model_type": self.architecture,
            "hidden_size": hidden,
            "num_hidden_layers": int(self._required("block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(self._own("attention.head_count_kv", heads)),
            "head_dim": int(self._own("attention.key_length", hidden // heads)),
            "intermediate_size": int(self._required("feed_forward_length")),
            "hidden_act": "silu",
            "rms_norm_eps": self._required("attention.layer_norm_rms_epsilon"),
            "vocab_size": self._vocab_size(),
            "max_position_embeddings": int(self._required("context_length")),
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "attention_bias": "blk.0.attn_q.bias" in self._tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in self._tensors,
            "bos_token_id": self.value("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.value("tokenizer.ggml.eos_token_id"),
        }
        if (window := self._own("attention.sliding_window", None)) is not None:
            config["sliding_window"] = int(window)
        return config | rope_config(self._rope_metadata(), self._rope_factors(), config["head_dim"], self.path)

    def generation_config(self) -> dict[str, Any]:
        """Beginning and end ids in the form of a ``generation_config.json``; every way to end a turn counts."""
        ends = [self.value(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
        begin = self.value("tokenizer.ggml.bos_token_id")
        return {"bos_token_id": begin, "eos_token_id": sorted({end for end in ends if end is not None})}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every weight under its Hugging Face name: F16 and BF16 as stored, anything else as float32.

        Raises:
            GGUFError: a tensor has an unknown name or an unsupported quantization type.
        """
        for name, tensor in self._tensors.items():
            if name != _ROPE_FACTORS:
                yield _hf_name(name, self.path), self._load(tensor)

    def _load(self, tensor: Any) -> torch.Tensor:
        kind = QuantType(tensor.tensor_type).name
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if kind in _PLAIN:
            raw = np.array(tensor.data).reshape(-1).view(np.uint8)  # a copy: the map is read-only
            weight = torch.from_numpy(raw).view(_PLAIN[kind]).reshape(shape)
        elif kind in _QUANTIZED:
            weight = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).reshape(shape)
        else:
            known = ", ".join((*_QUANTIZED, *_PLAIN))
            raise GGUFError(f"{self.path}: tensor {tensor.name!r} has type {kind}, which is not supported; {known} are")
        part = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(?:weight|bias)", tensor.name)
        if part is None or self.architecture not in _PERMUTED:
            return weight
        heads = int(self._required("attention.head_count"))
        return unpermute(weight, heads if part[1] == "q" else int(self._own("attention.head_count_kv", heads)))

    def _own(self, key: str, default: Any) -> Any:
        return self.value(f"{self.architecture}.{key}", default)

    def _required(self, key: str) -> Any:
        value = self._own(key, None)
        if value is None or isinstance(value, list):
            what = "is missing" if value is None else "differs from layer to layer, which is not supported"
            raise GGUFError(f"{self.path}: metadata {self.architecture}.{key} {what}")
        return value

    def _vocab_size(self) -> int:
        """The embedding's rows: the metadata may leave out padding rows."""
        if (table := self._tensors.get("token_embd.weight")) is None:
            raise GGUFError(f"{self.path}: no tensor 'token_embd.weight'")
        return int(table.shape[-1])

    def _rope_metadata(self) -> Mapping[str, Any]:
        prefix = f"{self.architecture}.rope."
        return {key.removeprefix(prefix): self.value(key) for key in self._reader.fields if key.startswith(prefix)}

    def _rope_factors(self) -> np.ndarray[Any, Any] | None:
        tensor = self._tensors.get(_ROPE_FACTORS)
        return None if tensor is None else np.array(tensor.data, dtype=np.float32)


def unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's reordering of query and key rows: rotary pairs (i, i+1) there, (i, i+head_dim/2) here.

    Args:
        weight: [heads * head_dim, hidden], or a bias of [heads * head_dim].
        heads: query or key heads.
    """
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _hf_name(name: str, path: Path) -> str:
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer and layer[2] in _LAYER_NAMES:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.{layer[3]}"
    stem, _, leaf = name.rpartition(".")
    if stem in _TOP_NAMES and leaf in ("weight", "bias"):
        return f"{_TOP_NAMES[stem]}.{leaf}"
    raise GGUFError(f"{path}: tensor {name!r} is not part of a supported architecture")
