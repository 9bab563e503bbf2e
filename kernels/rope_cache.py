"""Rotary position embedding (Su et al. 2021), per-head q/k norm, and the write of k and v into the paged cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.kv_cache import LayerCache


@dataclass(frozen=True)
class HeadNorm:
    """Weights of the RMSNorm over each head of q and k (Qwen 3), float32 [head_dim]; empty where a model has none."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


def rope_and_cache(
    qkv: torch.Tensor,
    heads: int,
    positions: torch.Tensor,
    slots: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor],
    norm: HeadNorm,
    cache: LayerCache,
    kv_heads: int,
) -> torch.Tensor:
    """Rotate q and k in halves (GPT-NeoX style), store k and v at their slots, return q.

    Args:
        qkv: [tokens, (heads + 2 * kv_heads) * head_dim].
        heads: query heads.
        positions: [tokens] int64.
        slots: [tokens] int64, block * block_size + offset.
        rotation: cos and sin, each [positions, rotary_dim / 2] float32.
        norm: per-head norm of q and k.
        cache: written.
        kv_heads: key and value heads.

    Returns:
        [tokens, heads, head_dim], float32 on the CPU and qkv's dtype elsewhere
    """
    head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
    if qkv.is_cuda:
        from kernels.cuda import rope_cache as cuda

        norms = (norm.query, norm.key, norm.eps)
        return cuda.rope_and_cache(qkv, heads, kv_heads, positions, slots, rotation, norms, cache)
    if head_dim % 16:
        return reference(qkv, heads, positions, slots, rotation, norm, cache, kv_heads)
    from kernels.cpu import rope_cache as cpu
    from kernels.cpu.numeric import array, use_threads

    query = torch.empty(qkv.shape[0], heads, head_dim)
    use_threads(qkv.numel(), per_thread=8192)
    cpu.rope_and_cache(
        array(qkv),
        array(positions),
        array(slots),
        array(rotation[0]),
        array(rotation[1]),
        array(norm.query),
        array(norm.key),
        norm.eps,
        array(query),
        array(cache.keys),
        array(cache.values),
    )
    return query


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first 2 * half values of each head of x [tokens, heads, head_dim]; cos, sin are [tokens, half]."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def reference(
    qkv: torch.Tensor,
    heads: int,
    positions: torch.Tensor,
    slots: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor],
    norm: HeadNorm,
    cache: LayerCache,
    kv_heads: int,
) -> torch.Tensor:
    """The same in torch, in float32."""
    tokens = qkv.shape[0]
    query, key, value = (
        part.unflatten(1, (-1, qkv.shape[1] // (heads + 2 * kv_heads)))
        for part in qkv.split([n * (qkv.shape[1] // (heads + 2 * kv_heads)) for n in (heads, kv_heads, kv_heads)], 1)
    )
    wide = []
    for part, weight in ((query.float(), norm.query), (key.float(), norm.key)):
        if weight.numel():
            part = part * torch.rsqrt(part.square().mean(-1, keepdim=True) + norm.eps) * weight
        wide.append(rotate(part, rotation[0][positions], rotation[1][positions]))
    block, offset = slots // cache.block_size, slots % cache.block_size
    if qkv.device.type == "cpu":
        cache.keys[block, :, :, offset] = wide[1].to(cache.keys.dtype)
        cache.values[block, :, offset] = value.to(cache.values.dtype)
        return wide[0].view(tokens, heads, -1)
    cache.keys[block, offset] = wide[1].to(cache.keys.dtype)
    cache.values[block, offset] = value.to(cache.values.dtype)
    return wide[0].to(qkv.dtype)
