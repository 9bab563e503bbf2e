"""Rotation, per-head norm and cache write on the CPU against the torch reference."""

from __future__ import annotations

import pytest
import torch

from kernels.kv_cache import allocate
from kernels.rope_cache import HeadNorm, reference, rope_and_cache

CPU = torch.device("cpu")
NONE = HeadNorm(torch.empty(0), torch.empty(0), 1e-6)


def run(
    tokens: int, heads: int, kv_heads: int, head_dim: int, block_size: int, rotary: int, norm: bool, dtype: torch.dtype
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Query, keys and values by kernel and by reference."""
    generator = torch.Generator().manual_seed(tokens)
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim, generator=generator).to(dtype)
    positions = torch.randint(0, 100, (tokens,), generator=generator)
    blocks = -(-tokens // block_size) + 2
    slots = torch.randperm(blocks * block_size, generator=generator)[:tokens]
    angles = torch.randn(100, rotary // 2, generator=generator)
    own = torch.rand(2, head_dim, generator=generator) + 0.5
    weights = HeadNorm(own[0], own[1], 1e-6) if norm else NONE
    results = []
    for function in (rope_and_cache, reference):
        cache = allocate(blocks, block_size, kv_heads, head_dim, dtype, CPU)
        rotation = (angles.cos(), angles.sin())
        query = function(qkv.clone(), heads, positions, slots, rotation, weights, cache, kv_heads)
        results.append([query, cache.keys.float(), cache.values.float()])
    return results[0], results[1]


def check(got: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    query, keys, values = (a - b for a, b in zip(got, expected, strict=True))
    assert query.abs().max().item() < 1e-5
    assert values.abs().max().item() == 0
    # A value halfway between two bfloat16 numbers may round either way.
    step = 2**-7 if dtype == torch.bfloat16 else 1e-5
    assert (keys.abs() <= step * expected[1].abs() + 1e-6).all()
    assert (keys != 0).float().mean().item() < 0.01 or dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, 17, 70])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (9, 3), (7, 1)])
def test_equals_the_reference(tokens: int, heads: int, kv_heads: int, norm: bool, dtype: torch.dtype) -> None:
    check(*run(tokens, heads, kv_heads, 64, 16, 64, norm, dtype), dtype)


@pytest.mark.parametrize("block_size", [1, 4, 32])
@pytest.mark.parametrize(("head_dim", "rotary"), [(16, 16), (24, 24), (80, 40), (128, 128)])
def test_shapes(head_dim: int, rotary: int, block_size: int) -> None:
    check(*run(33, 4, 2, head_dim, block_size, rotary, True, torch.float32), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_do_not_depend_on_their_company(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(40, 5 * 64, generator=generator).to(dtype)
    positions, slots = torch.arange(40), torch.arange(40)
    angles = torch.randn(100, 32, generator=generator)
    norm = HeadNorm(torch.rand(64, generator=generator), torch.rand(64, generator=generator), 1e-6)
    rotation = (angles.cos(), angles.sin())
    together, alone = (allocate(3, 16, 1, 64, dtype, CPU) for _ in range(2))
    query = rope_and_cache(qkv, 3, positions, slots, rotation, norm, together, 1)
    for t in range(40):
        one = slice(t, t + 1)
        assert torch.equal(
            rope_and_cache(qkv[one], 3, positions[one], slots[one], rotation, norm, alone, 1), query[one]
        )
    assert torch.equal(together.keys, alone.keys)
    assert torch.equal(together.values, alone.values)


def test_slots_that_are_not_written_stay() -> None:
    cache = allocate(4, 4, 1, 16, torch.float32, CPU)
    cache.keys.fill_(5)
    cache.values.fill_(5)
    rope_and_cache(
        torch.zeros(2, 48),
        1,
        torch.arange(2),
        torch.tensor([6, 9]),
        (torch.ones(9, 8), torch.zeros(9, 8)),
        NONE,
        cache,
        1,
    )
    assert (cache.values.flatten(0, 2)[:, 0] == 0).nonzero().flatten().tolist() == [6, 9]
    assert (cache.keys[:, 0, 0].flatten() == 0).nonzero().flatten().tolist() == [6, 9]
