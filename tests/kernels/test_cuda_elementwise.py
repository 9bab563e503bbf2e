"""Norm, rotary embedding with cache write, and activations, against their torch references."""

from __future__ import annotations

import pytest
import torch

from kernels import activation, norm, rope_cache
from kernels.cuda import activation as cuda_activation
from kernels.cuda import norm as cuda_norm
from kernels.cuda import rope_cache as cuda_rope
from kernels.kv_cache import LayerCache


@pytest.mark.parametrize(("tokens", "hidden"), [(1, 64), (3, 576), (5, 4096), (2, 5000)])
def test_add_rms_norm(tokens: int, hidden: int, device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    x, residual = (torch.randn(tokens, hidden, device=device).to(dtype) for _ in range(2))
    weight = torch.rand(hidden, device=device) + 0.5
    wanted_residual = residual.clone()
    wanted = norm.reference(x, wanted_residual, weight, 1e-5)
    result = cuda_norm.add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(residual, wanted_residual)
    assert (result - wanted).norm() < tolerance * wanted.norm()


def test_a_row_of_norm_does_not_depend_on_its_neighbours(device: torch.device, dtype: torch.dtype) -> None:
    x, residual = (torch.randn(50, 576, device=device).to(dtype) for _ in range(2))
    weight = torch.rand(576, device=device)
    alone = cuda_norm.add_rms_norm(x[7:8], residual[7:8].clone(), weight, 1e-5)
    assert torch.equal(cuda_norm.add_rms_norm(x, residual, weight, 1e-5)[7:8], alone)


@pytest.mark.parametrize("size", [8, 1000, 3072])
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh", "gelu"])
def test_gated_activation(
    kind: cuda_activation.Activation, size: int, device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    gate_up = (torch.randn(3, 2 * size, device=device) * 4).to(dtype)
    if kind == "silu":
        wanted = activation.reference(gate_up)
    else:
        wanted = activation.gelu_reference(gate_up, "tanh" if kind == "gelu_tanh" else "none")
    assert (cuda_activation.gated(gate_up, kind) - wanted).norm() < tolerance * wanted.norm()


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rotary"), [(9, 3, 64, 64), (4, 1, 128, 128), (2, 2, 80, 80), (3, 1, 64, 16)]
)
def test_rope_and_cache(
    heads: int, kv_heads: int, head_dim: int, rotary: int, normed: bool, device: torch.device, dtype: torch.dtype,
    tolerance: float,
) -> None:  # fmt: skip
    tokens, block_size = 7, 16
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim, device=device).to(dtype)
    positions = torch.tensor([0, 5, 6, 7, 90, 1, 2], device=device)
    slots = torch.randperm(6 * block_size, device=device)[:tokens]
    angles = torch.rand(100, rotary // 2, device=device) * 6
    rotation = (angles.cos(), angles.sin())
    weights = [torch.rand(head_dim if normed else 0, device=device) + 0.5 for _ in range(2)]
    caches = []
    for _ in range(2):
        generator = torch.Generator(device).manual_seed(0)
        shape = (6, block_size, kv_heads, head_dim)
        keys, values = (torch.randn(shape, device=device, generator=generator).to(dtype) for _ in range(2))
        caches.append(LayerCache(keys, values, block_size))
    got = cuda_rope.rope_and_cache(
        qkv, heads, kv_heads, positions, slots, rotation, (weights[0], weights[1], 1e-6), caches[0]
    )
    wanted = _reference(qkv, heads, positions, slots, rotation, weights, caches[1], kv_heads)
    pairs = [(got, wanted), (caches[0].keys, caches[1].keys), (caches[0].values, caches[1].values)]
    for result, expected in pairs:
        assert (result - expected).norm() < tolerance * expected.norm()
    assert torch.equal(caches[0].values, caches[1].values)


def _reference(
    qkv: torch.Tensor, heads: int, positions: torch.Tensor, slots: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor], weights: list[torch.Tensor], cache: LayerCache, kv_heads: int,
) -> torch.Tensor:  # fmt: skip
    """The reference keeps the CPU's layout for CPU tensors: give it views of that layout onto the CUDA cache."""
    keys, values = cache.keys, cache.values
    if qkv.device.type == "cpu":
        keys, values = keys.permute(0, 2, 3, 1), values.permute(0, 2, 1, 3)
    head_norm = rope_cache.HeadNorm(weights[0], weights[1], 1e-6)
    view = LayerCache(keys, values, cache.block_size)
    return rope_cache.reference(qkv, heads, positions, slots, rotation, head_norm, view, kv_heads)


def test_padding_tokens_write_nothing(device: torch.device, dtype: torch.dtype) -> None:
    qkv = torch.randn(3, 4 * 64, device=device).to(dtype)
    cache = LayerCache(*(torch.zeros(2, 16, 1, 64, device=device, dtype=dtype) for _ in range(2)), 16)
    rotation = (torch.ones(4, 32, device=device), torch.zeros(4, 32, device=device))
    slots = torch.tensor([-1, 3, -1], device=device)
    none = torch.empty(0, device=device)
    cuda_rope.rope_and_cache(qkv, 2, 1, slots * 0, slots, rotation, (none, none, 0.0), cache)
    written = cache.values.flatten(0, 1).abs().sum((1, 2)).nonzero().flatten().tolist()
    assert written == [3]
