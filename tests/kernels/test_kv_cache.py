"""Copies within the paged cache, on both layouts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.kv_cache import allocate, copy_blocks


@pytest.mark.parametrize("cuda_layout", [False, True])
def test_copied_blocks_hold_what_their_sources_held_before(cuda_layout: bool) -> None:
    """Several copies of one block, and a block that is read and written by the same call."""
    draw = torch.Generator().manual_seed(0)
    caches = [allocate(6, 4, 2, 8, torch.bfloat16, torch.device("cpu")) for _ in range(3)]
    if cuda_layout:
        caches = [replace(cache, keys=torch.zeros(6, 4, 2, 8), values=torch.zeros(6, 4, 2, 8)) for cache in caches]
    for cache in caches:
        for tensor in (cache.keys, cache.values):
            tensor.copy_(torch.randn(tensor.shape, generator=draw))
    before = [(cache.keys.clone(), cache.values.clone()) for cache in caches]
    copy_blocks(caches, [(1, 4), (1, 2), (3, 1)])
    for cache, (keys, values) in zip(caches, before, strict=True):
        for block, source in enumerate([0, 3, 1, 3, 1, 5]):
            assert torch.equal(cache.keys[block], keys[source])
            assert torch.equal(cache.values[block], values[source])
