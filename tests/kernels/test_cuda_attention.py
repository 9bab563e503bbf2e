"""Decode, prefill and shared-prefix attention: against the float64 definition, and against each other to the bit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from kernels.attention import AttentionBatch, CudaAttentionBatch, paged_attention, reference
from kernels.cuda import shared_prefix
from kernels.cuda.decode import decode_attention
from kernels.cuda.decode_plan import DecodePlan, allocate_plan, plan_decode
from kernels.cuda.geometry import Geometry
from kernels.cuda.numerics import PIECE
from kernels.cuda.prefill import SLOTS, allocate_split, prefill_attention, prefill_tiles
from kernels.cuda.shared_prefix import SharedPrefixes, share_prefixes, shared_prefix_attention
from kernels.kv_cache import LayerCache

LLAMA = Geometry(32, 8, 128, torch.bfloat16)
exact = pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter's matrix products depend on shapes")


@dataclass(frozen=True)
class Case:
    """Random keys and values of some sequences, and a query for every token of theirs."""

    lengths: list[int]
    heads: int
    kv_heads: int
    head_dim: int
    cache: LayerCache
    tables: torch.Tensor
    queries: list[torch.Tensor]  # each [length, heads, head_dim]
    window: int = 0
    softcap: float = 0.0

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.heads, self.kv_heads, self.head_dim, self.queries[0].dtype)


def make(
    lengths: list[int], heads: int, kv_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype,
    block_size: int = 16, window: int = 0, softcap: float = 0.0, common: int = 0,
) -> Case:  # fmt: skip
    """``common`` leading tokens have the same blocks in all sequences. Unused blocks hold huge values."""
    generator = torch.Generator().manual_seed(sum(lengths) + heads)
    per_sequence = [-(-n // block_size) for n in lengths]
    blocks = sum(per_sequence) + 3
    order = torch.randperm(blocks, generator=generator).int()
    tables = torch.full((len(lengths), max(per_sequence) + 1), order[-1].item(), dtype=torch.int32)
    used = 0
    for i, n in enumerate(per_sequence):
        tables[i, :n] = order[used : used + n]
        tables[i, : common // block_size] = tables[0, : common // block_size]
        used += n
    shape = (blocks, block_size, kv_heads, head_dim)
    keys, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    values[order[used:].long()] = 1e4
    queries = [torch.randn(n, heads, head_dim, generator=generator).to(device, dtype) * 2 for n in lengths]
    cache = LayerCache(keys.to(device), values.to(device), block_size)
    return Case(lengths, heads, kv_heads, head_dim, cache, tables.to(device), queries, window, softcap)


def expected(case: Case, last: int) -> torch.Tensor:
    """The definition in float64 for the ``last`` tokens of every sequence."""
    keys, values = case.cache.keys.double(), case.cache.values.double()
    if keys.device.type == "cpu":
        keys, values = keys.permute(0, 2, 3, 1), values.permute(0, 2, 1, 3)
    cache = LayerCache(keys, values, case.cache.block_size)
    counts = [min(last, n) for n in case.lengths]
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    query = torch.cat([q[-n:] for q, n in zip(case.queries, counts, strict=True)]).double()
    if not case.softcap:
        batch = AttentionBatch(starts, case.lengths, case.tables)
        return reference(query, cache, batch, case.scale, case.window)
    return _capped(case, counts)


def _capped(case: Case, counts: list[int]) -> torch.Tensor:
    parts = []
    for i, (n, count) in enumerate(zip(case.lengths, counts, strict=True)):
        slots = case.tables[i, : -(-n // case.cache.block_size)].long()
        k, v = (x[slots].flatten(0, 1)[:n].double() for x in (case.cache.keys, case.cache.values))
        k, v = (x.repeat_interleave(case.heads // case.kv_heads, 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", case.queries[i][-count:].double(), k) * case.scale
        scores = case.softcap * (scores / case.softcap).tanh()
        hidden = torch.ones(count, n, dtype=torch.bool, device=k.device).triu(n - count + 1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(parts)


def pieces(case: Case) -> int:
    return sum(-(-n // PIECE) for n in case.lengths)


def decode(case: Case, prefixes: SharedPrefixes | None = None, plan: DecodePlan | None = None) -> torch.Tensor:
    """The last token of every sequence."""
    device = case.tables.device
    sequences = len(case.lengths)
    plan = plan or allocate_plan(sequences, pieces(case), case.heads, case.head_dim, case.window, device)
    contexts = torch.tensor(case.lengths, dtype=torch.int32, device=device)
    none = torch.zeros_like(contexts)
    query = torch.stack([q[-1] for q in case.queries])
    out = torch.full_like(query, float("nan"))
    plan_decode(plan, contexts, prefixes.pieces if prefixes else none)
    if prefixes:
        shared_prefix_attention(query, case.cache, case.tables, contexts, prefixes, plan, case.scale, case.softcap)
    decode_attention(query, case.cache, case.tables, plan, case.scale, case.softcap, out)
    return out


def prefill(case: Case, last: int, chunk: int = 0) -> torch.Tensor:
    """The ``last`` tokens of every sequence, in one step or in steps of ``chunk`` tokens."""
    results = [torch.full_like(q[-last:], float("nan")) for q in case.queries]
    for begin in range(0, last, chunk or last):
        stops = [min(begin + (chunk or last), min(last, n)) for n in case.lengths]
        counts = [max(stop - begin, 0) for stop in stops]
        starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
        firsts = [max(n - last, 0) + begin for n in case.lengths]
        query = torch.cat([q[f : f + c] for q, f, c in zip(case.queries, firsts, counts, strict=True)])
        contexts = [f + c for f, c in zip(firsts, counts, strict=True)]
        tiles = prefill_tiles(starts, contexts, case.geometry).to(query.device)
        out = torch.full_like(query, float("nan"))
        prefill_attention(query, case.cache, case.tables, tiles, case.scale, case.window, case.softcap, out)
        for i, count in enumerate(counts):
            results[i][begin : begin + count] = out[starts[i] : starts[i + 1]]
    return torch.cat(results)


def error(result: torch.Tensor, wanted: torch.Tensor) -> float:
    assert result.shape == wanted.shape
    return float((result.double() - wanted).norm() / wanted.norm())


SHAPES = [(6, 2, 64), (4, 1, 128), (9, 3, 64), (2, 2, 80)]


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_decode_is_softmax_attention(
    heads: int, kv_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    case = make([1, 17, 256, 257, 530], heads, kv_heads, head_dim, device, dtype)
    assert error(decode(case), expected(case, 1)) < tolerance


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_prefill_is_softmax_attention(
    heads: int, kv_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    case = make([3, 64, 301], heads, kv_heads, head_dim, device, dtype)
    assert error(prefill(case, 40), expected(case, 40)) < tolerance


@pytest.mark.parametrize("window", [1, 60, 300])
def test_a_sliding_window_hides_older_keys(
    window: int, device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    case = make([20, 310, 640], 4, 2, 64, device, dtype, window=window)
    assert error(decode(case), expected(case, 1)) < tolerance
    assert error(prefill(case, 20), expected(case, 20)) < tolerance


def test_scores_are_capped(device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    case = make([5, 290], 4, 2, 64, device, dtype, softcap=2.0)
    assert error(decode(case), expected(case, 1)) < tolerance
    assert error(prefill(case, 5), expected(case, 5)) < tolerance


@pytest.mark.parametrize("block_size", [8, 32, 64])
def test_any_block_size(block_size: int, device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    case = make([100, 270], 4, 2, 64, device, dtype, block_size=block_size)
    assert error(decode(case), expected(case, 1)) < tolerance
    assert error(prefill(case, 9), expected(case, 9)) < tolerance


def test_whole_tiles_may_be_copied(device: torch.device) -> None:
    """Blocks of a whole tile, in a type of 16 bits, go through the tile copy engine where there is one."""
    case = make([100, 270, 300], 4, 2, 64, device, torch.float16, block_size=64, window=150)
    assert error(decode(case), expected(case, 1)) < 2e-3
    assert error(prefill(case, 9), expected(case, 9)) < 2e-3


@pytest.mark.parametrize("window", [0, 280, 520])
@pytest.mark.parametrize(("merged", "head_dim"), [(False, 64), (True, 64), (True, 256)])
def test_shared_prefixes_change_nothing(
    merged: bool, head_dim: int, window: int, device: torch.device, dtype: torch.dtype, tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(shared_prefix, "MERGED_FROM", 1 if merged else 99)
    common = 2 * PIECE + 16
    lengths = [common + 5, 2 * PIECE + 40, common + PIECE, 30, common + 1]
    case = make(lengths, 4, 2, head_dim, device, dtype, common=common, window=window)
    prefixes = share_prefixes([([4, 0, 1, 2], 2 * PIECE + 3)], len(lengths), 40, case.geometry, device)
    assert int(prefixes.counts) == (1 if merged else 2)
    assert prefixes.pieces.tolist() == [-2 if merged else 2] * 3 + [0] + [-2 if merged else 2]
    together, alone = decode(case, prefixes), decode(case)
    assert error(together, expected(case, 1)) < tolerance
    if torch.cuda.is_available():
        assert torch.equal(together, alone)


@exact
def test_a_large_group_is_merged_and_has_the_same_bits(device: torch.device, dtype: torch.dtype) -> None:
    lengths = [513 + i % 300 for i in range(400)]
    case = make(lengths, 8, 2, 64, device, dtype, block_size=64, common=512)
    prefixes = share_prefixes([(range(400), 512)], 400, 900, case.geometry, device)
    assert int(prefixes.counts) == 13
    assert torch.equal(decode(case, prefixes), decode(case))


def test_groups_beyond_the_capacity_stay_unshared(device: torch.device) -> None:
    prefixes = share_prefixes(
        [([0, 1], 600), ([2, 3], 5000), ([4], 600)], 5, 4, Geometry(32, 8, 128, torch.bfloat16), device
    )
    assert prefixes.pieces.tolist() == [2, 2, 0, 0, 0]
    assert int(prefixes.counts) == 2


def test_unused_rows_of_a_batch_are_left_alone(device: torch.device, dtype: torch.dtype) -> None:
    case = make([40, 40, 300], 4, 2, 64, device, dtype)
    plan = allocate_plan(4, 40, 4, 64, 0, device)
    contexts = torch.tensor([40, 0, 300], dtype=torch.int32, device=device)
    query = torch.stack([q[-1] for q in case.queries])
    out = torch.full_like(query, 7.0)
    plan_decode(plan, contexts, torch.zeros_like(contexts))
    decode_attention(query, case.cache, case.tables, plan, case.scale, 0.0, out)
    assert (out[1] == 7.0).all()
    torch.testing.assert_close(out[[0, 2]], decode(case)[[0, 2]], rtol=1e-5 if dtype == torch.float32 else 0, atol=1e-6)


@exact
@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("window", [0, 300])
@pytest.mark.parametrize("softcap", [0.0, 20.0])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(32, 8, 128), (32, 8, 64), (9, 3, 64), (8, 1, 256)])
def test_a_token_has_the_same_bits_in_decode_prefill_and_chunks(
    heads: int, kv_heads: int, head_dim: int, softcap: float, window: int, block_size: int, device: torch.device,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    lengths = [600, 1, 77, 256, 257, 1030, 512]
    case = make(lengths, heads, kv_heads, head_dim, device, dtype, block_size, window=window, softcap=softcap)
    whole = prefill(case, max(lengths))
    ends = torch.tensor(lengths).cumsum(0) - 1
    assert torch.equal(decode(case), whole[ends.to(device)])
    for chunk in (64, 100, 512):
        assert torch.equal(_chunked(case, chunk), whole)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "softcap", "window", "slots"),
    [
        (6, 2, 64, 0.0, 0, SLOTS),
        (4, 1, 128, 0.0, 0, 5),
        (9, 3, 64, 20.0, 0, 5),
        (2, 2, 80, 0.0, 300, SLOTS),
        (2, 1, 64, 0.0, 300, 2),
    ],
)
def test_tiles_split_along_their_keys_give_the_same_bits(
    heads: int, kv_heads: int, head_dim: int, softcap: float, window: int, slots: int, device: torch.device,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    last = 20
    case = make([1030, 40, 1300], heads, kv_heads, head_dim, device, dtype, window=window, softcap=softcap)
    starts = [0, last, 2 * last, 3 * last]
    query = torch.cat([q[-last:] for q in case.queries])
    tiles = prefill_tiles(starts, case.lengths, case.geometry, slots)
    pieces = tiles[tiles[:, 6] >= 0]
    assert 2 <= len(pieces) <= slots
    assert sorted(pieces[:, 6].tolist()) == list(range(len(pieces)))
    tiles = torch.cat([tiles, torch.zeros(3, tiles.shape[1], dtype=torch.int32)]).to(device)  # padded, as in a graph
    out = torch.full_like(query, float("nan"))
    scratch = allocate_split(case.geometry, device)
    prefill_attention(query, case.cache, case.tables, tiles, case.scale, window, softcap, out, scratch)
    assert torch.equal(out, prefill(case, last))


def test_tiles_are_split_where_they_would_be_the_last_to_end() -> None:
    def pieces(lengths: list[int], tokens: int) -> int:
        starts = [i * tokens for i in range(len(lengths) + 1)]
        return int((prefill_tiles(starts, lengths, LLAMA, SLOTS)[:, 6] >= 0).sum())

    assert pieces([2000], 32) == 8
    assert pieces([2000] + [200] * 8, 32) == 8
    assert pieces([700], 32) == 0  # the merge would take as long
    assert pieces([2000] * 30, 32) == 0  # enough programs without
    assert pieces([100_000], 32) == SLOTS


def _chunked(case: Case, chunk: int) -> torch.Tensor:
    """Every token, each sequence in chunks of its own from its start."""
    parts = []
    for i, n in enumerate(case.lengths):
        for begin in range(0, n, chunk):
            stop = min(begin + chunk, n)
            query = case.queries[i][begin:stop].contiguous()
            tiles = prefill_tiles([0, stop - begin], [stop], case.geometry)
            out = torch.full_like(query, float("nan"))
            prefill_attention(
                query, case.cache, case.tables[i : i + 1], tiles.to(query.device), case.scale, case.window,
                case.softcap, out,
            )  # fmt: skip
            parts.append(out)
    return torch.cat(parts)


@exact
def test_a_sequence_has_the_same_bits_alone_and_in_a_batch(device: torch.device, dtype: torch.dtype) -> None:
    lengths = [(i * 37) % 1500 + 1 for i in range(256)]
    case = make(lengths, 32, 8, 128, device, dtype)
    together = decode(case)
    for i in range(0, 256, 32):
        single = Case([lengths[i]], 32, 8, 128, case.cache, case.tables[i : i + 1], [case.queries[i]])
        assert torch.equal(decode(single)[0], together[i])


def test_one_step_decodes_and_prefills(device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    case = make([300, 40], 8, 2, 128, device, dtype)
    contexts = torch.tensor(case.lengths[:1], dtype=torch.int32, device=device)
    plan = allocate_plan(1, 2, 8, 128, 0, device)
    plan_decode(plan, contexts, torch.zeros_like(contexts))
    tiles = prefill_tiles([1, 21], case.lengths[1:], case.geometry).to(device)
    batch = CudaAttentionBatch(1, case.tables[:1], contexts, plan, prefill_tables=case.tables[1:], tiles=tiles)
    query = torch.cat([case.queries[0][-1:], case.queries[1][-20:]])
    result = paged_attention(query, case.cache, batch, case.scale, 0, dtype)
    wanted = torch.cat([expected(case, 1)[:1], expected(case, 20)[20:]])
    assert error(result, wanted) < tolerance
