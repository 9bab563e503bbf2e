"""Paged attention on the CPU against its definition in float64, and its independence of tiles and batch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from kernels.attention import AttentionBatch, paged_attention, reference
from kernels.kv_cache import LayerCache, allocate, gather

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Step:
    query: torch.Tensor
    cache: LayerCache
    batch: AttentionBatch


def make_step(
    slices: Sequence[tuple[int, int]],
    kv_heads: int = 2,
    group: int = 3,
    head_dim: int = 64,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Step:
    """Sequences of (queries, context) tokens over blocks in random order; what no sequence owns is large and finite."""
    generator = torch.Generator().manual_seed(seed)
    counts = [-(-context // block_size) for _, context in slices]
    numbers = list(range(sum(counts) + 3))
    random.Random(seed).shuffle(numbers)
    cache = allocate(len(numbers), block_size, kv_heads, head_dim, dtype, CPU)
    for tensor in (cache.keys, cache.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 1e3)
    tables = torch.zeros(len(slices), max(counts), dtype=torch.int32)
    for row, (_, context) in enumerate(slices):
        own = [numbers.pop() for _ in range(counts[row])]
        tables[row, : len(own)] = torch.tensor(own, dtype=torch.int32)
        for at in range(context):
            block, offset = own[at // block_size], at % block_size
            cache.keys[block, :, :, offset] = torch.randn(kv_heads, head_dim, generator=generator).to(dtype)
            cache.values[block, :, offset] = torch.randn(kv_heads, head_dim, generator=generator).to(dtype)
    starts = [0, *itertools.accumulate(queries for queries, _ in slices)]
    query = torch.randn(starts[-1], kv_heads * group, head_dim, generator=generator)
    return Step(query, cache, AttentionBatch(starts, [context for _, context in slices], tables))


def attend(step: Step, window: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return paged_attention(step.query, step.cache, step.batch, 0.125, window, dtype)


def check(step: Step, window: int = 0) -> None:
    got, expected = attend(step, window), reference(step.query, step.cache, step.batch, 0.125, window)
    assert torch.isfinite(got).all()
    assert (got - expected).abs().max().item() < 2e-5


SLICES = [(1, 1), (1, 70), (5, 5), (16, 40), (17, 17), (33, 300), (1, 129), (70, 128)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block_size", [1, 2, 4, 8, 16, 32, 64, 128])
def test_block_sizes(block_size: int, dtype: torch.dtype) -> None:
    check(make_step(SLICES, block_size=block_size, dtype=dtype))


@pytest.mark.parametrize("head_dim", [4, 16, 20, 40, 64, 80, 96, 128])
@pytest.mark.parametrize("group", [1, 2, 3, 5, 7])
def test_shapes_of_heads(head_dim: int, group: int) -> None:
    check(make_step(SLICES[2:6], kv_heads=1 + group % 2, group=group, head_dim=head_dim, seed=head_dim))


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 64, 128, 129, 250, 1000])
def test_windows(window: int) -> None:
    check(make_step([*SLICES, (40, 520)], block_size=8), window)


@pytest.mark.parametrize("tokens", [1, 2, 3, 15, 16, 17, 31, 48, 69, 70])
def test_numbers_of_tokens(tokens: int) -> None:
    check(make_step([(tokens, tokens), (tokens, tokens + 127)]))


def test_extreme_scores_stay_finite() -> None:
    step = make_step([(9, 200)])
    step.query.mul_(1e4)
    check(step)


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_do_not_depend_on_tiles_chunks_or_company(dtype: torch.dtype, window: int) -> None:
    """One sequence whole, in chunks, token by token, and among others: equal to the bit."""
    length = 150
    whole = make_step([(length, length), (37, 90), (1, 300)], dtype=dtype)
    expected = attend(whole, window, dtype)[:length]
    table = whole.batch.block_tables[:1]
    for chunk in (1, 7, 16, 50, length):
        for start in range(0, length, chunk):
            stop = min(length, start + chunk)
            part = AttentionBatch([0, stop - start], [stop], table[:, : -(-stop // 16)])
            got = attend(Step(whole.query[start:stop], whole.cache, part), window, dtype)
            assert torch.equal(got, expected[start:stop])


def test_rows_do_not_depend_on_where_the_blocks_are_or_on_what_else_they_hold() -> None:
    step = make_step([(20, 77)])
    expected = attend(step)
    keys, values = gather(step.cache, step.batch.block_tables[0], 77)
    other = allocate(9, 16, 2, 64, torch.float32, CPU)
    for tensor in (other.keys, other.values):
        tensor.fill_(-7.0)
    blocks = [8, 2, 5, 0, 3]
    for at in range(77):
        other.keys[blocks[at // 16], :, :, at % 16] = keys[at]
        other.values[blocks[at // 16], :, at % 16] = values[at]
    batch = AttentionBatch([0, 20], [77], torch.tensor([blocks], dtype=torch.int32))
    assert torch.equal(attend(Step(step.query, other, batch)), expected)
