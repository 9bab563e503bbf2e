"""The paged KV cache of one layer: its tensors, their layout per device, and its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer in blocks of ``block_size`` tokens; a slot is ``block * block_size + offset``.

    Layout on CUDA, for both: [blocks, block_size, kv_heads, head_dim]. On the CPU keys are
    [blocks, kv_heads, head_dim, block_size], so that neighbouring keys fill a vector register, and values
    [blocks, kv_heads, block_size, head_dim].
    """

    keys: torch.Tensor
    values: torch.Tensor
    block_size: int


def allocate(
    blocks: int, block_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> LayerCache:
    """Allocate one layer's cache, zeroed: lanes past a sequence's end meet zero weights and must be finite."""
    if device.type == "cpu":
        keys = _lazy_zeros((blocks, kv_heads, head_dim, block_size), dtype)
        values = _lazy_zeros((blocks, kv_heads, block_size, head_dim), dtype)
    else:
        keys = torch.zeros(blocks, block_size, kv_heads, head_dim, dtype=dtype, device=device)
        values = torch.zeros_like(keys)
    return LayerCache(keys, values, block_size)


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros whose pages the operating system provides when they are first touched: the cache costs what it holds."""
    raw = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)


def bytes_per_block(block_size: int, kv_heads: int, head_dim: int, layers: int, dtype: torch.dtype) -> int:
    """Bytes that one block takes over all layers, keys and values together."""
    return 2 * block_size * kv_heads * head_dim * layers * dtype.itemsize


def copy_blocks(caches: Sequence[LayerCache], pairs: Sequence[tuple[int, int]]) -> None:
    """Copy blocks of all layers, the first of each pair to the second, in stream order and without waiting."""
    tensors = [tensor for cache in caches for tensor in (cache.keys, cache.values)]
    numbers = torch.tensor(pairs, dtype=torch.int64).T.contiguous()
    if tensors[0].is_cuda:
        numbers = numbers.pin_memory().to(tensors[0].device, non_blocking=True)
    source, target = numbers
    for tensor in tensors:
        tensor[target] = tensor[source]


def gather(cache: LayerCache, block_table: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a sequence's first ``length`` tokens, each [length, kv_heads, head_dim], for references."""
    blocks = block_table[: -(-length // cache.block_size)].long()
    keys, values = cache.keys[blocks], cache.values[blocks]
    if cache.keys.device.type == "cpu":
        keys, values = keys.permute(0, 3, 1, 2), values.permute(0, 2, 1, 3)
    return keys.flatten(0, 1)[:length], values.flatten(0, 1)[:length]
