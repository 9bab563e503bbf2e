"""The Llama-like decoder over the paged cache."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from engine.model.checkpoint import Checkpoint
from engine.model.rope import rotation_tables
from engine.model.spec import DecoderSpec
from kernels.attention import AttentionBatch, CudaAttentionBatch, paged_attention
from kernels.kv_cache import LayerCache
from kernels.linear import PackedLinear
from kernels.norm import add_rms_norm
from kernels.rope_cache import HeadNorm, rope_and_cache


@dataclass(frozen=True)
class GivenRows:
    """Embeddings that the caller gave in place of token ids."""

    rows: torch.Tensor  # [given] int64, of the step's tokens
    values: torch.Tensor  # [given, hidden] in the model's dtype


@dataclass(frozen=True)
class DecoderBatch:
    """The tokens of one step, laid out one sequence after the other."""

    tokens: torch.Tensor  # [tokens] int64
    positions: torch.Tensor  # [tokens] int64
    slots: torch.Tensor  # [tokens] int64
    attention: AttentionBatch | CudaAttentionBatch
    given: GivenRows | None = None

    def embedded(self, table: torch.Tensor) -> torch.Tensor:
        """The tokens' embeddings [tokens, hidden] by the model's table [vocab, hidden], or as given."""
        x = table[self.tokens]
        if self.given is not None:
            x[self.given.rows] = self.given.values
        return x


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer; q, k, v and gate, up are each one matrix."""

    input_norm: torch.Tensor
    qkv: PackedLinear
    head_norm: HeadNorm
    output: PackedLinear
    mlp_norm: torch.Tensor
    gate_up: PackedLinear
    down: PackedLinear


class Decoder:
    """Token ids in, logits out; keys and values go to the caches on the way.

    The residual stream is [tokens, hidden] in the model's dtype; norms, rotation, softmax and the gate compute in
    float32. Logits are float32.
    """

    def __init__(self, spec: DecoderSpec, checkpoint: Checkpoint, positions: int) -> None:
        """Take the weights over; no sequence will be longer than ``positions`` tokens."""
        self.spec = spec
        self.dtype = checkpoint.dtype
        self.rotation = rotation_tables(spec, positions, checkpoint.device)
        self.embedding = checkpoint.take("model.embed_tokens.weight", spec.vocab_size, spec.hidden_size)
        self.layers = [_layer(spec, f"model.layers.{i}.", checkpoint) for i in range(spec.layers)]
        self.norm = checkpoint.take("model.norm.weight", spec.hidden_size).float()
        head = self.embedding if spec.tied else checkpoint.take("lm_head.weight", spec.vocab_size, spec.hidden_size)
        self.head = PackedLinear(head)
        checkpoint.finish()

    def hidden_states(self, batch: DecoderBatch, caches: Iterable[LayerCache]) -> torch.Tensor:
        """Compute one step up to the output head: [tokens, hidden], normalised."""
        spec, eps = self.spec, self.spec.norm_eps
        x = batch.embedded(self.embedding)  # [tokens, hidden]
        residual = torch.zeros_like(x)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer.qkv(add_rms_norm(x, residual, layer.input_norm, eps))
            query = rope_and_cache(
                x, spec.heads, batch.positions, batch.slots, self.rotation, layer.head_norm, cache, spec.kv_heads
            )
            x = paged_attention(query, cache, batch.attention, spec.head_dim**-0.5, spec.sliding_window, self.dtype)
            x = layer.output(x.flatten(1))
            x = layer.down(layer.gate_up.silu_mul(add_rms_norm(x, residual, layer.mlp_norm, eps)))
        return add_rms_norm(x, residual, self.norm, eps)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The output head: hidden [rows, hidden] -> [rows, vocab] float32."""
        return self.head(hidden).float()


def _layer(spec: DecoderSpec, prefix: str, checkpoint: Checkpoint) -> Layer:
    """Take one layer's weights; matrices that share their input become one."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    query, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim

    def linear(inputs: int, bias: bool, *outputs: tuple[str, int]) -> PackedLinear:
        weights = [checkpoint.take(f"{prefix}{name}.weight", size, inputs) for name, size in outputs]
        biases = [checkpoint.take(f"{prefix}{name}.bias", size) for name, size in outputs] if bias else None
        return PackedLinear(torch.cat(weights), torch.cat(biases) if biases else None)

    def norm(name: str, size: int) -> torch.Tensor:
        return checkpoint.take(f"{prefix}{name}.weight", size).float()

    def head_norm(name: str) -> torch.Tensor:
        return norm(f"self_attn.{name}", spec.head_dim) if spec.qk_norm else torch.empty(0, device=checkpoint.device)

    return Layer(
        input_norm=norm("input_layernorm", hidden),
        qkv=linear(
            hidden, spec.qkv_bias, ("self_attn.q_proj", query), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)
        ),
        head_norm=HeadNorm(head_norm("q_norm"), head_norm("k_norm"), spec.norm_eps),
        output=linear(query, spec.output_bias, ("self_attn.o_proj", hidden)),
        mlp_norm=norm("post_attention_layernorm", hidden),
        gate_up=linear(hidden, spec.mlp_bias, ("mlp.gate_proj", inner), ("mlp.up_proj", inner)),
        down=linear(inner, spec.mlp_bias, ("mlp.down_proj", hidden)),
    )
