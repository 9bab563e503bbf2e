"""What kernels need to know of the device."""

from __future__ import annotations

from functools import cache

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.cuda.numerics import KEY_TILE
from kernels.kv_cache import LayerCache

INTERPRETED_SMS = 2  # under Triton's interpreter; few, so that a program takes several units of work in tests


@cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a CUDA device; a small constant for the CPU, where the interpreter runs kernels."""
    if device.type != "cuda":
        return INTERPRETED_SMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def copies_tiles(device: torch.device) -> bool:
    """Whether the device has a tile copy engine (TMA, compute capability 9.0); the interpreter imitates it."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


def key_tiles(cache: LayerCache) -> tuple[object, object, bool]:
    """What attention kernels read keys and values through, and whether that is the tile copy engine.

    The engine takes a whole key tile at once where a block holds it: block_size must be a multiple of KEY_TILE.
    Otherwise each row is found by its own address. Both give the same bits, as long as stale values behind a context
    are finite.
    """
    blocks, block_size, kv_heads, head_dim = cache.keys.shape
    fits = head_dim in (64, 128, 256) and cache.keys.element_size() == 2 and block_size % KEY_TILE == 0
    if not (fits and copies_tiles(cache.keys.device)):
        return cache.keys, cache.values, False
    width = kv_heads * head_dim
    keys, values = (
        TensorDescriptor(x, [blocks * block_size, width], [width, 1], [KEY_TILE, head_dim])
        for x in (cache.keys, cache.values)
    )
    return keys, values, True
