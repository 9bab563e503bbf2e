"""Every kernel family once on small shapes against its reference: whether compilers, drivers and kernels agree here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from kernels import activation, bitmask, norm, process_logits, rope_cache, sample
from kernels.attention import AttentionBatch, paged_attention, reference
from kernels.kv_cache import LayerCache, allocate
from kernels.linear import PackedLinear

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # relative error that rounding explains
EXACT = ("logits processing", "sampling")  # nothing is rounded
BLOCK, KV_HEADS, GROUP, HEAD_DIM = 16, 2, 3, 64
CONTEXTS = (1, 17, 40, 129)  # tokens of sequences: less than a block, and over its ends


@dataclass(frozen=True)
class KernelCheck:
    """What came of one kernel: its relative error (of exact ones the share of values that differ), how much rounding
    explains, the seconds with compilation, and what it raised, if it did."""

    name: str
    error: float
    limit: float
    seconds: float
    raised: str = ""

    @property
    def passed(self) -> bool:
        """Whether the result is the reference's."""
        return not self.raised and self.error <= self.limit


def self_test(device: torch.device) -> Iterator[KernelCheck]:
    """Compile and check the kernels of a device, one after the other."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    checks: dict[str, Callable[[], float]] = {
        "matrix product": lambda: _linear(device, dtype),
        "norm": lambda: _norm(device, dtype),
        "activation": lambda: _activation(device, dtype),
        "rotary embedding and cache": lambda: _rope(device, dtype),
        "logits processing": lambda: _logits(device, dtype),
        "sampling": lambda: _sampling(device),
    }
    if device.type == "cpu":
        checks["attention"] = lambda: _cpu_attention(dtype)
    else:
        checks["prefill attention"] = lambda: cuda_prefill(device, dtype)
        checks["decode attention"] = lambda: cuda_decode(device, dtype)
    for name, check in checks.items():
        yield _checked(name, check, LIMITS[dtype])


def _checked(name: str, check: Callable[[], float], limit: float) -> KernelCheck:
    began = time.perf_counter()
    limit = 0.0 if name in EXACT else limit
    try:
        error = check()
    except Exception as raised:  # compilers and drivers raise what they like, and the doctor has to tell it
        text = f"{type(raised).__name__}: {str(raised).strip().splitlines()[0] if str(raised).strip() else ''}"
        return KernelCheck(name, float("inf"), limit, time.perf_counter() - began, text)
    return KernelCheck(name, error, limit, time.perf_counter() - began)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """NaN counts as infinitely wrong."""
    error = float((found.double() - wanted.double()).norm() / wanted.double().norm())
    return error if error == error else float("inf")


def _random(device: torch.device, dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def _linear(device: torch.device, dtype: torch.dtype) -> float:
    x, weight = _random(device, dtype, 5, 128), _random(device, dtype, 192, 128, seed=1)
    wanted = x.double() @ weight.double().T
    return _error(PackedLinear(weight)(x), wanted)


def _norm(device: torch.device, dtype: torch.dtype) -> float:
    x, residual = _random(device, dtype, 5, 576), _random(device, dtype, 5, 576, seed=1)
    weight = _random(device, torch.float32, 576, seed=2)
    wanted = norm.reference(x, residual.clone(), weight, 1e-5)
    return _error(norm.add_rms_norm(x, residual, weight, 1e-5), wanted)


def _activation(device: torch.device, dtype: torch.dtype) -> float:
    gate_up = _random(device, dtype, 5, 512)
    return _error(activation.silu_mul(gate_up), activation.reference(gate_up))


def _rope(device: torch.device, dtype: torch.dtype) -> float:
    heads, tokens = KV_HEADS * GROUP, 7
    qkv = _random(device, dtype, tokens, (heads + 2 * KV_HEADS) * HEAD_DIM)
    positions = torch.arange(tokens, device=device)
    slots = torch.arange(tokens, device=device) * 5
    angles = _random(device, torch.float32, tokens, HEAD_DIM // 2, seed=1)
    none = torch.empty(0, device=device)
    results = []
    for function in (rope_cache.rope_and_cache, rope_cache.reference):
        cache = allocate(4, BLOCK, KV_HEADS, HEAD_DIM, dtype, device)
        rotation, head_norm = (angles.cos(), angles.sin()), rope_cache.HeadNorm(none, none, 0.0)
        query = function(qkv, heads, positions, slots, rotation, head_norm, cache, KV_HEADS)
        results.append(torch.cat([part.double().flatten() for part in (query, cache.keys, cache.values)]))
    return _error(*results)


def _logits(device: torch.device, dtype: torch.dtype) -> float:
    """The share of processed logits that differ: a bias, tokens ruled out, a bad word of two tokens, and masks."""
    vocab = 5003
    logits, own = _random(device, dtype, 3, vocab), torch.arange(3, device=device, dtype=torch.int32)
    edits = process_logits.LogitsEdits(
        sources=own.flip(0),
        offset_rows=own - 1,
        offsets=_random(device, torch.float32, 2, vocab, seed=1),
        token_begins=torch.tensor([0, 2, 2, 3], device=device, dtype=torch.int32),
        tokens=torch.tensor([7, 4999, 0], device=device, dtype=torch.int32),
        history_rows=own,
        history=torch.tensor([[5], [6], [7]], device=device),
        pattern_begins=torch.tensor([0, 0, 2, 2], device=device, dtype=torch.int32),
        before=torch.tensor([[6], [5]], device=device),
        last=torch.tensor([9, 10], device=device),
    )
    wanted = process_logits.reference(logits, edits)
    found = process_logits.process_logits(logits, edits)
    masked = own[1:].long()
    words = torch.tensor([0x0F0F0F0F, 0], device=device, dtype=torch.int32)[:, None].expand(2, -(-vocab // 32))
    wanted[masked] = bitmask.reference(wanted[masked], words)
    bitmask.apply_bitmask(found, masked, words.contiguous())
    return float((found != wanted).double().mean())


def _sampling(device: torch.device) -> float:
    """The share of rows whose token is another one: greedy, free, and with filters."""
    rows, vocab = 12, 5003
    logits = _random(device, torch.float32, rows, vocab) * 3
    own = torch.arange(rows, device=device)
    settings = sample.SamplingRows(
        temperature=own.float() / 8,
        top_k=(own % 3 * 20).int(),
        top_p=1 - (own % 4) * 0.1,
        min_p=(own % 5) * 0.01,
        seeds=own * 2**33 + 7,
        positions=own * 100,
    )
    wanted = sample.reference(logits, settings).tokens
    return float((sample.draw(logits, settings, True) != wanted).double().mean())


def _tables(generator: torch.Generator) -> torch.Tensor:
    """Block tables of the sequences over blocks in random order, [sequences, blocks] int32."""
    counts = [-(-context // BLOCK) for context in CONTEXTS]
    order = torch.randperm(sum(counts), generator=generator).int().split(counts)
    return torch.nn.utils.rnn.pad_sequence(list(order), batch_first=True)


def _cpu_attention(dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)
    tables = _tables(generator)
    cache = allocate(int(tables.max()) + 1, BLOCK, KV_HEADS, HEAD_DIM, dtype, torch.device("cpu"))
    for seed, tensor in enumerate((cache.keys, cache.values)):
        tensor.copy_(_random(tensor.device, dtype, *tensor.shape, seed=seed))
    query = _random(torch.device("cpu"), dtype, sum(CONTEXTS), KV_HEADS * GROUP, HEAD_DIM, seed=2)
    starts = [sum(CONTEXTS[:i]) for i in range(len(CONTEXTS) + 1)]
    batch = AttentionBatch(starts, list(CONTEXTS), tables)
    wanted = reference(query.double(), cache, batch, HEAD_DIM**-0.5, 0)
    return _error(paged_attention(query, cache, batch, HEAD_DIM**-0.5, 0, dtype), wanted)


@dataclass(frozen=True)
class _Case:
    """Sequences in a cache with CUDA's layout, and queries of all their tokens."""

    cache: LayerCache
    tables: torch.Tensor
    query: torch.Tensor  # [tokens, heads, head_dim]
    wanted: torch.Tensor

    @property
    def last(self) -> torch.Tensor:
        """The place of each sequence's last token."""
        return torch.tensor(CONTEXTS, device=self.query.device).cumsum(0) - 1


def _case(device: torch.device, dtype: torch.dtype) -> _Case:
    tables = _tables(torch.Generator().manual_seed(0)).to(device)
    shape = (int(tables.max()) + 1, BLOCK, KV_HEADS, HEAD_DIM)
    keys, values = (_random(device, dtype, *shape, seed=seed) for seed in range(2))
    query = _random(device, dtype, sum(CONTEXTS), KV_HEADS * GROUP, HEAD_DIM, seed=2)
    wide = (keys.double(), values.double())
    if device.type == "cpu":  # in Triton's interpreter: the reference has another layout there
        wide = (wide[0].permute(0, 2, 3, 1), wide[1].permute(0, 2, 1, 3))
    starts = [sum(CONTEXTS[:i]) for i in range(len(CONTEXTS) + 1)]
    batch = AttentionBatch(starts, list(CONTEXTS), tables)
    wanted = reference(query.double(), LayerCache(*wide, BLOCK), batch, HEAD_DIM**-0.5, 0)
    return _Case(LayerCache(keys, values, BLOCK), tables, query, wanted)


def cuda_prefill(device: torch.device, dtype: torch.dtype) -> float:
    """The error of Triton's prefill attention over whole sequences."""
    from kernels.cuda.geometry import Geometry
    from kernels.cuda.prefill import prefill_attention, prefill_tiles

    case = _case(device, dtype)
    starts = [sum(CONTEXTS[:i]) for i in range(len(CONTEXTS) + 1)]
    tiles = prefill_tiles(starts, list(CONTEXTS), Geometry.of(case.query, case.cache.keys)).to(device)
    out = torch.full_like(case.query, float("nan"))
    prefill_attention(case.query, case.cache, case.tables, tiles, HEAD_DIM**-0.5, 0, 0.0, out)
    return _error(out, case.wanted)


def cuda_decode(device: torch.device, dtype: torch.dtype) -> float:
    """The error of Triton's decode attention of each sequence's last token."""
    from kernels.cuda.decode import decode_attention
    from kernels.cuda.decode_plan import allocate_plan, plan_decode
    from kernels.cuda.numerics import PIECE

    case = _case(device, dtype)
    pieces = sum(-(-context // PIECE) for context in CONTEXTS)
    plan = allocate_plan(len(CONTEXTS), pieces, KV_HEADS * GROUP, HEAD_DIM, 0, device)
    contexts = torch.tensor(CONTEXTS, dtype=torch.int32, device=device)
    plan_decode(plan, contexts, torch.zeros_like(contexts))
    query = case.query[case.last].contiguous()
    out = torch.full_like(query, float("nan"))
    decode_attention(query, case.cache, case.tables, plan, HEAD_DIM**-0.5, 0.0, out)
    return _error(out, case.wanted[case.last])
