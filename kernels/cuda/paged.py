"""What attention kernels are told of heads, paged cache and scores: one for decode, prefill, shared prefixes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.cuda.device import copies_tiles
from kernels.cuda.numerics import KEY_TILE, PIECE
from kernels.cuda.softmax import LOG2_E
from kernels.kv_cache import LayerCache


@dataclass(frozen=True)
class PagedKeys:
    """Arguments of a launch."""

    keys: object  # a tensor, or a descriptor for the tile copy engine
    values: object
    copied: bool  # which of the two
    scores: tuple[float, float, float, int]  # scale, scale * log2(e), soft cap, window
    sizes: dict[str, int | bool]  # compile-time constants by name


def paged_keys(query: torch.Tensor, cache: LayerCache, scale: float, softcap: float, window: int) -> PagedKeys:
    """Of query [tokens, heads, head_dim] with a cache of its device."""
    heads, head_dim = query.shape[1:]
    kv_heads = cache.keys.shape[2]
    keys, values, copied = key_tiles(cache)
    sizes: dict[str, int | bool] = {
        "KV_HEADS": kv_heads,
        "GROUP": heads // kv_heads,
        "HEAD_DIM": head_dim,
        "DIM": int(triton.next_power_of_2(head_dim)),
        "BLOCK_SIZE": cache.block_size,
        "TILE": KEY_TILE,
        "PIECE_": PIECE,
        "CAPPED": softcap > 0,
        "WINDOWED": window > 0,
        "COPIED": copied,
    }
    return PagedKeys(keys, values, copied, (scale, scale * LOG2_E, softcap, window), sizes)


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
        TensorDescriptor(x, [blocks, block_size, width], [block_size * width, width, 1], [1, KEY_TILE, head_dim])
        for x in (cache.keys, cache.values)
    )
    return keys, values, True
