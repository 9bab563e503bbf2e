"""Tables of the rotary position embedding (Su et al. 2021) and of its context extensions."""

from __future__ import annotations

import torch

from engine.model.errors import UnsupportedModelError
from engine.model.spec import DecoderSpec

# These change with the sequence's length while it grows: a cached key would no longer fit.
LENGTH_DEPENDENT = ("dynamic", "longrope")


def rotation_tables(spec: DecoderSpec, positions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines for every position, each [positions, rotary_dim / 2] float32.

    Raises:
        UnsupportedModelError: the kind of scaling depends on the sequence's length.
    """
    frequencies, factor = _frequencies(spec)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return (angles.cos() * factor).to(device), (angles.sin() * factor).to(device)


def _frequencies(spec: DecoderSpec) -> tuple[torch.Tensor, float]:
    """Radians per position, [rotary_dim / 2], and the factor of the attention's temperature."""
    kind = spec.rope["rope_type"]
    dim = int(spec.head_dim * spec.rope["partial_rotary_factor"])
    if kind == "default":
        return 1.0 / spec.rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim), 1.0
    if kind in LENGTH_DEPENDENT:
        raise UnsupportedModelError(f"rope_type={kind!r} is not supported; supported are default, linear, llama3, yarn")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind not in ROPE_INIT_FUNCTIONS:
        raise UnsupportedModelError(
            f"rope_type={kind!r} is unknown; known are default, {', '.join(ROPE_INIT_FUNCTIONS)}"
        )
    config = LlamaConfig(
        hidden_size=spec.hidden_size,
        num_attention_heads=spec.heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.max_position,
        rope_parameters=dict(spec.rope),
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequencies, float(factor)
