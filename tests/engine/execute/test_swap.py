"""Copies of cache blocks to host memory and back, on the CPU's and on CUDA's layout."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from engine.execute import swap
from engine.execute.swap import SwapSpace
from engine.schedule.plan import StepPlan
from kernels.kv_cache import LayerCache, allocate

BLOCKS, SLOTS, LAYERS = 20, 30, 3


def caches(cuda_layout: bool) -> list[LayerCache]:
    draw = torch.Generator().manual_seed(1)
    made = []
    for _ in range(LAYERS):
        cache = allocate(BLOCKS, 4, 2, 8, torch.bfloat16, torch.device("cpu"))
        if cuda_layout:
            zeros = torch.zeros(BLOCKS, 4, 2, 8, dtype=torch.bfloat16)
            cache = replace(cache, keys=zeros, values=zeros.clone())
        for tensor in (cache.keys, cache.values):
            tensor.copy_(torch.randn(tensor.shape, generator=draw))
        made.append(cache)
    return made


def contents(made: list[LayerCache]) -> torch.Tensor:
    """[blocks, layers, keys and values]: every block's numbers."""
    return torch.stack([tensor.flatten(1) for cache in made for tensor in (cache.keys, cache.values)], dim=1).clone()


@pytest.mark.parametrize("cuda_layout", [False, True])
@pytest.mark.parametrize("staged", [1, 1 << 11, 1 << 26], ids=["a block", "some blocks", "all blocks"])
def test_blocks_come_back_as_they_went(monkeypatch: pytest.MonkeyPatch, cuda_layout: bool, staged: int) -> None:
    """Against a dictionary, over random copies in plans; blocks are overwritten in between."""
    monkeypatch.setattr(swap, "STAGED_BYTES", staged)
    made, draw = caches(cuda_layout), random.Random(3)
    space = SwapSpace(made, SLOTS, pin=False)
    device, host = contents(made), dict[int, torch.Tensor]()
    for _ in range(40):
        count = draw.randint(0, 9)
        first = draw.randint(0, SLOTS - 9)
        slots = list(range(first, first + count)) if draw.random() < 0.5 else draw.sample(range(SLOTS), count)
        out = list(zip(draw.sample(range(BLOCKS), count), slots, strict=True))
        host |= {slot: device[block].clone() for block, slot in out}
        known = draw.sample(sorted(host), min(len(host), draw.randint(0, 9)))
        back = list(zip(draw.sample(range(BLOCKS), len(known)), known, strict=True))
        for block, slot in back:
            device[block] = host[slot]
        space.execute(StepPlan((), tuple(out), tuple(back)))
        assert torch.equal(contents(made), device)
        lost = draw.randrange(BLOCKS)
        device[lost] = 0
        for cache in made:
            cache.keys[lost] = cache.values[lost] = 0


def test_plans_without_copies_allocate_nothing() -> None:
    space = SwapSpace(caches(False), 1 << 40, pin=False)
    space.execute(StepPlan(()))
    assert space._host.numel() == 0
