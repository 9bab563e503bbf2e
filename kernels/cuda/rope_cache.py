# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Per-head q/k norm, rotary embedding and the write of keys and values into the paged cache, in one pass over qkv."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.cuda.launch import launch_arguments, starts_early, wait_for_earlier
from kernels.kv_cache import LayerCache

ROWS = 16  # heads per program
WARPS = 4


@triton.jit
def _inverse_rms(first, second, rest, eps, HEAD_DIM: tl.constexpr):
    squares = tl.sum(first * first, 1) + tl.sum(second * second, 1) + tl.sum(rest * rest, 1)
    return tl.rsqrt(squares / HEAD_DIM + eps)[:, None]


@triton.jit
def _store(base, offset, i, value, mask, START: tl.constexpr):
    tl.store(base + offset[:, None] + START + i[None, :], value.to(base.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tokens"])
def _rope_cache_kernel(
    qkv,  # [tokens, HEADS + 2 * KV_HEADS, HEAD_DIM]
    positions, slots,
    cos,  # [positions, HALF]
    sin, q_weight, k_weight,
    query,  # [tokens, HEADS, HEAD_DIM]
    keys,  # [blocks, block_size, KV_HEADS, HEAD_DIM]
    values, tokens, eps, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,  # rotated values / 2
    PADDED: tl.constexpr,  # HALF to a power of two
    REST: tl.constexpr,  # values behind the rotated ones, to a power of two, at least 1
    NORMED: tl.constexpr, ROWS_: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Row r of the flattened heads is head r % ALL of token r // ALL: queries, then keys, then values."""
    wait_for_earlier(EARLY)
    ALL: tl.constexpr = HEADS + 2 * KV_HEADS
    row = tl.program_id(0) * ROWS_ + tl.arange(0, ROWS_)
    token, head = row // ALL, row % ALL
    live = token < tokens
    is_query, is_value = head < HEADS, head >= HEADS + KV_HEADS
    i = tl.arange(0, PADDED)
    j = tl.arange(0, REST)
    half = live[:, None] & (i < HALF)[None, :]
    tail = live[:, None] & (j < HEAD_DIM - 2 * HALF)[None, :]
    source = qkv + row.to(tl.int64)[:, None] * HEAD_DIM
    first = tl.load(source + i[None, :], mask=half, other=0.0).to(tl.float32)
    second = tl.load(source + HALF + i[None, :], mask=half, other=0.0).to(tl.float32)
    rest = tl.load(source + 2 * HALF + j[None, :], mask=tail, other=0.0).to(tl.float32)
    turns = (live & (head < HEADS + KV_HEADS))[:, None]
    if NORMED:
        scale = _inverse_rms(first, second, rest, eps, HEAD_DIM)
        first = tl.where(turns, first * scale * _weights(q_weight, k_weight, is_query, i, half & turns, 0), first)
        second = tl.where(turns, second * scale * _weights(q_weight, k_weight, is_query, i, half & turns, HALF), second)
        rest = tl.where(turns, rest * scale * _weights(q_weight, k_weight, is_query, j, tail & turns, 2 * HALF), rest)
    position = tl.load(positions + token, mask=live, other=0)
    angle = position.to(tl.int64)[:, None] * HALF + i[None, :]
    c = tl.load(cos + angle, mask=half & turns, other=1.0)
    s = tl.load(sin + angle, mask=half & turns, other=0.0)
    rotated = tl.fma(first, c, -(second * s))
    second = tl.fma(second, c, first * s)

    slot = tl.load(slots + token, mask=live, other=0).to(tl.int64)
    q_offset = (token * HEADS + head).to(tl.int64) * HEAD_DIM
    k_offset = (slot * KV_HEADS + head - HEADS) * HEAD_DIM
    v_offset = k_offset - KV_HEADS * HEAD_DIM
    is_key = (turns & ~is_query[:, None]) & (slot >= 0)[:, None]
    is_query = is_query[:, None]
    is_value = is_value[:, None] & (slot >= 0)[:, None]
    _store(query, q_offset, i, rotated, half & is_query, 0)
    _store(query, q_offset, i, second, half & is_query, HALF)
    _store(query, q_offset, j, rest, tail & is_query, 2 * HALF)
    _store(keys, k_offset, i, rotated, half & is_key, 0)
    _store(keys, k_offset, i, second, half & is_key, HALF)
    _store(keys, k_offset, j, rest, tail & is_key, 2 * HALF)
    _store(values, v_offset, i, rotated, half & is_value, 0)
    _store(values, v_offset, i, second, half & is_value, HALF)
    _store(values, v_offset, j, rest, tail & is_value, 2 * HALF)


@triton.jit
def _weights(q_weight, k_weight, is_query, i, mask, START: tl.constexpr):
    q = tl.load(q_weight + START + i[None, :] + 0 * is_query[:, None].to(tl.int32), mask=mask, other=0.0)
    k = tl.load(k_weight + START + i[None, :] + 0 * is_query[:, None].to(tl.int32), mask=mask, other=0.0)
    return tl.where(is_query[:, None], q.to(tl.float32), k.to(tl.float32))


def rope_and_cache(
    qkv: torch.Tensor,
    heads: int,
    kv_heads: int,
    positions: torch.Tensor,
    slots: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor],
    norm: tuple[torch.Tensor, torch.Tensor, float],
    cache: LayerCache,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise and rotate q and k in halves (GPT-NeoX style), store k and v at their slots, return q.

    Args:
        qkv: [tokens, (heads + 2 * kv_heads) * head_dim] contiguous.
        positions: [tokens] integer.
        slots: [tokens] integer, block * block_size + offset; negative ones (padding of a batch bucket) write nothing.
        rotation: cos and sin, each [positions, rotary_dim / 2] float32 contiguous.
        norm: weights [head_dim] of q and k and eps; empty weights for none.
        cache: written.
        out: [tokens, heads, head_dim] contiguous; allocated in qkv's dtype if None.
    """
    tokens = qkv.shape[0]
    total = heads + 2 * kv_heads
    head_dim = qkv.shape[1] // total
    half = rotation[0].shape[1]
    out = qkv.new_empty(tokens, heads, head_dim) if out is None else out
    if tokens:
        _rope_cache_kernel[(triton.cdiv(tokens * total, ROWS),)](
            qkv,
            positions,
            slots,
            rotation[0],
            rotation[1],
            norm[0],
            norm[1],
            out,
            cache.keys,
            cache.values,
            tokens,
            norm[2],
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            HALF=half,
            PADDED=triton.next_power_of_2(half),
            REST=triton.next_power_of_2(max(head_dim - 2 * half, 1)),
            NORMED=norm[0].numel() > 0,
            ROWS_=ROWS,
            num_warps=WARPS,
            **launch_arguments(starts_early(qkv.device)),
        )
    return out
