"""The BERT encoder and its pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.model.checkpoint import Checkpoint
from engine.model.spec import EncoderSpec
from kernels.linear import PackedLinear


@dataclass(frozen=True)
class Norm:
    """LayerNorm weights, each [hidden]."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class EncoderLayer:
    """Weights of one layer; q, k and v are one matrix."""

    qkv: PackedLinear
    output: PackedLinear
    attention_norm: Norm
    up: PackedLinear
    down: PackedLinear
    norm: Norm


class Encoder:
    """Token ids in, one vector per sequence out.

    Sequences are laid out one after the other without padding, and attention runs per sequence, so that a sequence's
    arithmetic does not depend on its neighbours.
    """

    def __init__(self, spec: EncoderSpec, checkpoint: Checkpoint) -> None:
        """Take the weights over."""
        self.spec = spec
        hidden, eps, device = spec.hidden_size, spec.norm_eps, checkpoint.device
        take = checkpoint.take
        self.words = take("embeddings.word_embeddings.weight", spec.vocab_size, hidden)
        positions = take("embeddings.position_embeddings.weight", spec.max_position, hidden)
        # Every token has segment 0: one row of the segment table is added to all positions, once.
        self.positions = positions + take("embeddings.token_type_embeddings.weight", 2, hidden)[0]
        self.norm = _norm("embeddings.LayerNorm", hidden, eps, checkpoint)
        self.layers = [_layer(spec, f"encoder.layer.{i}.", checkpoint) for i in range(spec.layers)]
        self.device = device
        checkpoint.finish()

    def __call__(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embed token id sequences: [sequences, hidden] float32, pooled but not normalised."""
        lengths = [len(tokens) for tokens in sequences]
        tokens = torch.tensor([token for tokens in sequences for token in tokens], device=self.device)
        positions = torch.cat([torch.arange(n, device=self.device) for n in lengths])
        x = self.norm(self.words[tokens] + self.positions[positions])  # [tokens, hidden]
        for layer in self.layers:
            x = layer.attention_norm(x + layer.output(self._attend(layer.qkv(x), lengths)))
            x = layer.norm(x + layer.down(self._activate(layer.up(x))))
        parts = x.float().split(lengths)
        return torch.stack([part[0] if self.spec.pooling == "cls" else part.mean(0) for part in parts])

    def _attend(self, qkv: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Full attention within each sequence; qkv [tokens, 3 * hidden] -> [tokens, hidden]."""
        out = []
        for part in qkv.split(list(lengths)):
            q, k, v = part.unflatten(1, (3, self.spec.heads, -1)).permute(1, 2, 0, 3).unsqueeze(1)  # [1, heads, n, dim]
            out.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1))
        return torch.cat(out)

    def _activate(self, x: torch.Tensor) -> torch.Tensor:
        if self.spec.activation == "relu":
            return F.relu(x)
        return F.gelu(x, approximate="none" if self.spec.activation == "gelu" else "tanh")


def _norm(name: str, size: int, eps: float, checkpoint: Checkpoint) -> Norm:
    return Norm(checkpoint.take(f"{name}.weight", size), checkpoint.take(f"{name}.bias", size), eps)


def _layer(spec: EncoderSpec, prefix: str, checkpoint: Checkpoint) -> EncoderLayer:
    hidden, inner = spec.hidden_size, spec.intermediate_size

    def linear(inputs: int, outputs: int, *names: str) -> PackedLinear:
        weights = [checkpoint.take(f"{prefix}{name}.weight", outputs, inputs) for name in names]
        biases = [checkpoint.take(f"{prefix}{name}.bias", outputs) for name in names]
        return PackedLinear(torch.cat(weights), torch.cat(biases))

    return EncoderLayer(
        qkv=linear(hidden, hidden, *(f"attention.self.{name}" for name in ("query", "key", "value"))),
        output=linear(hidden, hidden, "attention.output.dense"),
        attention_norm=_norm(f"{prefix}attention.output.LayerNorm", hidden, spec.norm_eps, checkpoint),
        up=linear(hidden, inner, "intermediate.dense"),
        down=linear(inner, hidden, "output.dense"),
        norm=_norm(f"{prefix}output.LayerNorm", hidden, spec.norm_eps, checkpoint),
    )
