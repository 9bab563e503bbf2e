"""Checks that a row's result does not depend on its neighbours, at the sizes of real models."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from benchmarks.kernel_cases import SHAPES, Attention, Shape
from kernels.cuda import gemm, norm, sample
from kernels.cuda.prefill import SLOTS, allocate_split, prefill_tiles
from kernels.cuda.shared_prefix import share_prefixes
from kernels.kv_cache import LayerCache
from kernels.sample import SamplingRows


def checks() -> dict[str, bool]:
    """Name of the check to whether it holds, over all shapes."""
    results: dict[str, bool] = {}
    for shape in SHAPES:
        results[f"{shape.name}: decode = prefill = chunks of 64, 100 and 512"] = _phases(shape)
        results[f"{shape.name}: decode alone = among 256"] = _batch(shape)
        results[f"{shape.name}: decode with noise in its neighbours' keys"] = _neighbours(shape)
        results[f"{shape.name}: decode with shared prefix = without"] = _cascade(shape)
        results[f"{shape.name}: blocks of 16 = blocks of 64"] = _blocks(shape)
        results[f"{shape.name}: products of 1, 2, 8, 16, 20, 33, 64 rows = cuBLAS of 512"] = _products(shape)
        results[f"{shape.name}: norm alone = among 256"] = _norm(shape)
        results[f"{shape.name}: sampling alone = among 256"] = _sample(shape)
    return results


def _single(a: Attention, i: int) -> Attention:
    """Sequence i alone, over the same cache."""
    one = object.__new__(Attention)
    one.shape, one.lengths, one.common, one.cache = a.shape, [a.lengths[i]], 0, a.cache
    one.tables, one.contexts, one.none = a.tables[i : i + 1], a.contexts[i : i + 1], a.none[:1]
    return one


def _decode(a: Attention, query: torch.Tensor) -> torch.Tensor:
    out = torch.full_like(query, float("nan"))
    a.decode(query, a.plan(), out)
    return out


def _phases(shape: Shape, length: int = 2100) -> bool:
    a = Attention(shape, [length], 64)
    query = a.queries(length)
    whole = torch.full_like(query, float("nan"))
    a.prefill(query, a.tiles(length), whole)
    same = torch.equal(_decode(a, query[-1:].contiguous()), whole[-1:])
    scratch = allocate_split(shape.geometry, query.device)
    for chunk in (64, 100, 512):
        for begin in range(0, length, chunk):
            stop = min(begin + chunk, length)
            for slots, split in ((0, None), (SLOTS, scratch)):
                starts = [0, stop - begin]
                tiles = prefill_tiles(starts, [stop], shape.geometry, slots).cuda()
                out = torch.full_like(query[begin:stop], float("nan"))
                a.prefill(query[begin:stop], tiles, out, split)
                same &= torch.equal(out, whole[begin:stop])
    for i in range(1, length, 131):
        one = _single(a, 0)
        one.lengths, one.contexts = [i], torch.full_like(a.contexts, i)
        same &= torch.equal(_decode(one, query[i - 1 : i].contiguous()), whole[i - 1 : i])
    return same


def _lengths() -> list[int]:
    return [(i * 977) % 4000 + 1 for i in range(256)]


def _batch(shape: Shape) -> bool:
    a = Attention(shape, _lengths(), 64)
    query = a.queries(256)
    together = _decode(a, query)
    return all(torch.equal(_decode(_single(a, i), query[i : i + 1])[0], together[i]) for i in range(0, 256, 17))


def _neighbours(shape: Shape) -> bool:
    a = Attention(shape, _lengths(), 16)
    query = a.queries(256)
    before = _decode(a, query)
    mine = torch.zeros(a.cache.keys.shape[0], dtype=torch.bool, device="cuda")
    mine[a.tables[100, : -(-a.lengths[100] // 16)].long()] = True
    a.cache.keys[~mine] = torch.randn_like(a.cache.keys[~mine]) * 5
    a.cache.values[~mine] = torch.randn_like(a.cache.values[~mine]) * 5
    after = _decode(a, query)
    return torch.equal(after[100], before[100]) and not torch.equal(after, before)


def _cascade(shape: Shape) -> bool:
    a = Attention(shape, [1300 + 7 * i for i in range(70)], 64, common=1280)
    query = a.queries(70)
    out = torch.full_like(query, float("nan"))
    prefixes = share_prefixes([(range(70), 1280)], 70, 200, shape.geometry, query.device)
    a.decode(query, a.plan(prefixes.pieces), out, prefixes)
    return torch.equal(out, _decode(a, query))


def _blocks(shape: Shape) -> bool:
    """The same cache under tables of small and of large blocks: addressed by rows, and copied by tiles."""
    a = Attention(shape, [1000, 64, 2049], 64)
    query = a.queries(3)
    small = object.__new__(Attention)
    small.__dict__.update(a.__dict__)
    size = (-1, 16, shape.kv_heads, shape.head_dim)
    small.cache = LayerCache(a.cache.keys.view(size), a.cache.values.view(size), 16)
    small.tables = (a.tables[:, :, None] * 4 + torch.arange(4, device="cuda", dtype=torch.int32)).flatten(1)
    return torch.equal(_decode(small, query), _decode(a, query))


def _products(shape: Shape) -> bool:
    same = True
    for n, k in list(shape.linears.values())[:4]:
        x = torch.randn(512, k, device="cuda").bfloat16()
        weight = (torch.randn(n, k, device="cuda") / k**0.5).bfloat16()
        whole = F.linear(x, weight)
        for rows in (1, 2, 8, 16, 20, 33, 64):
            same &= torch.equal(gemm.skinny_linear(x[:rows], weight), whole[:rows])
            same &= torch.equal(F.linear(x[:rows], weight), whole[:rows])
    return same


def _norm(shape: Shape) -> bool:
    x, residual = (torch.randn(256, shape.hidden, device="cuda").bfloat16() for _ in range(2))
    weight = torch.rand(shape.hidden, device="cuda")
    alone = norm.add_rms_norm(x[9:10], residual[9:10].clone(), weight, 1e-5)
    return torch.equal(norm.add_rms_norm(x, residual, weight, 1e-5)[9:10], alone)


def _sample(shape: Shape) -> bool:
    x = (torch.randn(256, shape.vocab, device="cuda") * 3).bfloat16()
    ones, ids = torch.ones(256, device="cuda"), torch.arange(256, device="cuda")
    rows = SamplingRows(ones, (ones * 40).int(), ones * 0.9, ones * 0.01, ids, ids)
    together = sample.sample(x, rows, True)
    one = replace(rows, **{f: getattr(rows, f)[9:10] for f in ("temperature", "top_k", "top_p", "min_p")})
    one = replace(one, seeds=ids[9:10], positions=ids[9:10])
    alone = sample.sample(x[9:10], one, True)
    return torch.equal(alone.tokens, together.tokens[9:10]) and torch.equal(alone.logprobs, together.logprobs[9:10])
