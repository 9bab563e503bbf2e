"""Rotary position embedding, per-head norm and the write into the paged cache, in one pass over q, k and v."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels.cpu.norm import inverse_rms
from kernels.cpu.numeric import LANES, PARALLEL, narrow, widen


@numba.njit(**PARALLEL)
def rope_and_cache(
    qkv: Any,
    positions: Any,
    slots: Any,
    cos: Any,
    sin: Any,
    q_norm: Any,
    k_norm: Any,
    eps: float,
    query: Any,
    key_cache: Any,
    value_cache: Any,
) -> None:
    """Rotate queries and keys, store keys and values at their slots.

    Args:
        qkv: [tokens, (heads + 2 * kv_heads) * head_dim], float32 or bfloat16 bits.
        positions: [tokens] int64.
        slots: [tokens] int64, block * block_size + offset.
        cos: [positions, rotary_dim / 2] float32. sin: the same.
        q_norm: [head_dim] float32 weights of the per-head RMSNorm, or of length 0 for none. k_norm: the same.
        eps: of the per-head norm.
        query: [tokens, heads, head_dim] float32, written.
        key_cache: [blocks, kv_heads, head_dim, block_size], written.
        value_cache: [blocks, kv_heads, block_size, head_dim], written.
    """
    tokens, heads, dim = query.shape
    kv_heads, block_size = key_cache.shape[1], key_cache.shape[3]
    half = cos.shape[1]
    epsilon = np.float32(eps)
    for t in numba.prange(tokens):
        position, block, offset = positions[t], slots[t] // block_size, slots[t] % block_size
        row = np.empty((1, dim), np.float32)
        lanes = row.reshape(1, dim // LANES, LANES)
        for h in range(heads + kv_heads):
            for d in range(dim):
                row[0, d] = widen(qkv[t, h * dim + d])
            weight = q_norm if h < heads else k_norm
            if weight.shape[0] > 0:
                factor = inverse_rms(lanes, 0, epsilon)
                for d in range(dim):
                    row[0, d] = row[0, d] * factor * weight[d]
            for d in range(half):
                first, second = row[0, d], row[0, half + d]
                row[0, d] = first * cos[position, d] - second * sin[position, d]
                row[0, half + d] = second * cos[position, d] + first * sin[position, d]
            if h < heads:
                for d in range(dim):
                    query[t, h, d] = row[0, d]
            else:
                for d in range(dim):
                    key_cache[block, h - heads, d, offset] = narrow(row[0, d], key_cache)
        for h in range(kv_heads):
            for d in range(dim):
                value_cache[block, h, offset, d] = narrow(widen(qkv[t, (heads + kv_heads + h) * dim + d]), value_cache)
