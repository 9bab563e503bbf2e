"""A model's architecture as a small declaration, read from its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.model.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """A Llama-like decoder: pre-norm RMSNorm, rotary positions, grouped-query attention, SiLU-gated feed-forward.

    Args:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        layers: decoder layers.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        intermediate_size: width of the feed-forward layer.
        norm_eps: of every RMSNorm.
        max_position: tokens that the model was made for.
        rope: the config entries that rotary positions depend on.
        qkv_bias: q, k and v have biases.
        output_bias: the attention's output has a bias.
        mlp_bias: the feed-forward layers have biases.
        qk_norm: q and k are normalised per head.
        sliding_window: keys that a query sees, 0 for all.
        tied: the output head is the embedding.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float
    max_position: int
    rope: Mapping[str, Any]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int = 0
    tied: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """A BERT encoder (Devlin et al. 2019) with absolute positions and post-norm layers."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    norm_eps: float
    max_position: int
    segments: int
    activation: str
    pooling: str = "mean"


Spec = DecoderSpec | EncoderSpec

# What sets each architecture apart from Llama; everything else comes from the config's own entries.
DECODERS: Mapping[str, Mapping[str, bool]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True},
    "Qwen3ForCausalLM": {"qk_norm": True},
}
HEAD_DIM_STEP = 4  # values of a head that attention takes at a time
ENCODERS = ("BertModel", "BertForMaskedLM")


def read_spec(config: Mapping[str, Any]) -> Spec:
    """The architecture that a Hugging Face config describes.

    Raises:
        UnsupportedModelError: the architecture or one of its options is not supported; the message names it.
    """
    names = config.get("architectures") or ["(none)"]
    try:
        for name in names:
            if name in DECODERS:
                return _decoder(config, DECODERS[name])
            if name in ENCODERS:
                return _encoder(config)
    except KeyError as error:
        raise UnsupportedModelError(f"the model's config has no entry {error}, which {names[0]} needs") from None
    known = ", ".join([*DECODERS, *ENCODERS])
    raise UnsupportedModelError(f"architecture {names[0]!r} is not supported; supported are {known}")


def _decoder(config: Mapping[str, Any], traits: Mapping[str, bool]) -> DecoderSpec:
    _require(config, "hidden_act", "silu", ("silu", "swish"))
    _require_sizes(config, "intermediate_size")
    heads = config["num_attention_heads"]
    bias = bool(config.get("attention_bias", False))
    return DecoderSpec(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate_size=config["intermediate_size"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        max_position=config.get("max_position_embeddings", 2048),
        rope=rope_entries(config),
        qkv_bias=traits.get("qkv_bias", False) or bias,
        output_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=traits.get("qk_norm", False),
        sliding_window=_window(config),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _encoder(config: Mapping[str, Any]) -> EncoderSpec:
    _require(config, "position_embedding_type", "absolute", ("absolute",))
    _require_sizes(config, "intermediate_size", "max_position_embeddings")
    _require(config, "hidden_act", "gelu", ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu"))
    return EncoderSpec(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        norm_eps=config.get("layer_norm_eps", 1e-12),
        max_position=config["max_position_embeddings"],
        segments=config.get("type_vocab_size", 2),
        activation=config.get("hidden_act", "gelu"),
    )


def rope_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Base, kind and parameters of the rotary embedding; older configs spread them over two entries."""
    entries = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    entries.setdefault("rope_type", entries.pop("type", "default"))
    entries.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    entries.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return entries


def _window(config: Mapping[str, Any]) -> int:
    """Keys that a query sees; Qwen's first ``max_window_layers`` layers see all, and without the flag all layers do."""
    window = config.get("sliding_window") or 0
    qwen = str(config.get("model_type", "")).startswith("qwen")
    if not config.get("use_sliding_window", not qwen) or not window:
        return 0
    full = config.get("max_window_layers", 0) if qwen else 0
    kinds = config.get("layer_types") or [
        "full_attention" if layer < full else "sliding_attention" for layer in range(config["num_hidden_layers"])
    ]
    if len(set(kinds)) > 1:
        raise UnsupportedModelError("layer_types mixes full and sliding attention, which is not supported")
    return 0 if kinds[0] == "full_attention" else window


def _require_sizes(config: Mapping[str, Any], *names: str) -> None:
    """Sizes without which there is no model, and heads that share them evenly."""
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", *names):
        value = config.get(name)
        if not isinstance(value, int) or value < 1:
            raise UnsupportedModelError(f"the model's config has {name}={value!r}; it must be an integer of at least 1")
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    if heads % kv_heads:
        raise UnsupportedModelError(f"num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}")
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    if head_dim % HEAD_DIM_STEP:
        raise UnsupportedModelError(f"head_dim={head_dim} is not supported: it must be a multiple of {HEAD_DIM_STEP}")


def _require(config: Mapping[str, Any], key: str, default: str, allowed: tuple[str, ...]) -> None:
    value = config.get(key) or default
    if value not in allowed:
        raise UnsupportedModelError(f"{key}={value!r} is not supported; supported are {', '.join(allowed)}")
