"""Measure every CUDA kernel against the device's ceilings: ``python benchmarks/kernels.py [kernel ...]``, on a GPU.

Prints one table and writes ``kernels.json`` to $OUT, or to outputs/. Times are those of replayed graphs, on random
data. Bytes count every input and output once; operations of attention count visible keys only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import triton

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.device_timing import ceilings, milliseconds
from benchmarks.kernel_cases import SHAPES, Attention, Shape
from benchmarks.kernel_invariance import checks
from benchmarks.logits_kernels import processors
from kernels import activation, norm, rope_cache
from kernels.attention import AttentionBatch, reference
from kernels.cuda import NUMERICS, gemm
from kernels.cuda import activation as cuda_activation
from kernels.cuda import norm as cuda_norm
from kernels.cuda import rope_cache as cuda_rope
from kernels.cuda import sample as cuda_sample
from kernels.cuda.prefill import SLOTS, allocate_split
from kernels.cuda.shared_prefix import share_prefixes
from kernels.kv_cache import LayerCache
from kernels.sample import SamplingRows


@dataclass(frozen=True)
class Row:
    """One line of the table: ``share`` is of the ceiling that bounds it, ``error`` relative to the reference."""

    kernel: str
    shape: str
    case: str
    microseconds: float
    rate: float
    unit: str
    share: float
    error: float | None


@dataclass(frozen=True)
class Meter:
    """Turns times into rows, given the ceilings."""

    ceilings: dict[str, float]

    def row(
        self, kernel: str, shape: Shape, case: str, work: Callable[[], object], amount: float, ceiling: str,
        error: float | None = None,
    ) -> Row:  # fmt: skip
        """``amount`` is bytes, or operations for the matmul ceiling."""
        ms = milliseconds(work)
        tera = ceiling == "matmul_tflops"
        rate = amount / ms / (1e9 if tera else 1e6)
        unit = "TFLOP/s" if tera else "GB/s"
        return Row(kernel, shape.name, case, ms * 1e3, rate, unit, rate / self.ceilings[ceiling], error)


def relative(result: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((result.double() - wanted.double()).norm() / wanted.double().norm())


def attention_error(a: Attention, query: torch.Tensor, out: torch.Tensor, tokens: int) -> float:
    """Of the first sequence's last ``tokens`` tokens, at most 64 of them, against float64."""
    few = min(tokens, 64)
    batch = AttentionBatch([0, few], a.lengths[:1], a.tables[:1])
    double = LayerCache(a.cache.keys.double(), a.cache.values.double(), a.cache.block_size)
    part = slice(tokens - few, tokens)
    wanted = reference(query[part].double(), double, batch, a.shape.head_dim**-0.5, 0)
    return relative(out[part], wanted)


def decode(meter: Meter, shape: Shape) -> Iterator[Row]:
    mixed = [(i * 977) % 4000 + 1 for i in range(256)]
    cases = {
        "1 x 1000": [1000],
        "1 x 8000": [8000],
        "64 x 2000": [2000] * 64,
        "256 x 100": [100] * 256,
        "256 x 1..4000": mixed,
    }
    for name, lengths in cases.items():
        for block_size in (64, 16) if name == "64 x 2000" else (64,):
            a = Attention(shape, lengths, block_size)
            query = a.queries(len(lengths))
            out, plan = torch.empty_like(query), a.plan()
            a.decode(query, plan, out)
            error = attention_error(a, query, out, 1)
            work = lambda a=a, q=query, p=plan, o=out: a.decode(q, p, o)  # noqa: E731
            yield meter.row("decode", shape, f"{name}, blocks {block_size}", work, a.decode_bytes, "read_gbps", error)


def cascade(meter: Meter, shape: Shape) -> Iterator[Row]:
    for count, own in ((64, 200), (256, 200), (1000, 100)):
        a = Attention(shape, [1024 + own + i % 64 for i in range(count)], 64, common=1024)
        query = a.queries(count)
        out, plain = torch.empty_like(query), torch.empty_like(query)
        prefixes = share_prefixes([(range(count), 1024)], count, 4000, shape.geometry, query.device)
        plans = a.plan(), a.plan(prefixes.pieces)
        alone = lambda a=a, q=query, p=plans[0], o=plain: a.decode(q, p, o)  # noqa: E731
        together = lambda a=a, q=query, p=plans[1], o=out, s=prefixes: a.decode(q, p, o, s)  # noqa: E731
        shared = lambda a=a, q=query, p=plans[1], s=prefixes: a.shared(q, p, s)  # noqa: E731
        alone()
        together()
        case, error = f"{count} x (1024 + {own})", relative(out, plain)
        yield meter.row("decode, nothing shared", shape, case, alone, a.decode_bytes, "read_gbps")
        yield meter.row("decode, shared prefix", shape, case, together, a.decode_bytes, "read_gbps", error)
        flops = 4 * count * 1024 * shape.heads * shape.head_dim
        yield meter.row("of it the shared part", shape, case, shared, flops, "matmul_tflops")


def prefill(meter: Meter, shape: Shape) -> Iterator[Row]:
    for name, lengths, tokens in (
        ("1 x 8192", [8192], 8192),
        ("4 x 2000", [2000] * 4, 2000),
        ("16 x 500", [500] * 16, 500),
        ("chunk of 512 at 8192", [8192], 512),
    ):
        for block_size in (64, 16) if name == "1 x 8192" else (64,):
            a = Attention(shape, lengths, block_size)
            query = a.queries(tokens * len(lengths))
            out, tiles = torch.empty_like(query), a.tiles(tokens)
            a.prefill(query, tiles, out)
            error = attention_error(a, query, out, tokens)
            case = f"{name}, blocks {block_size}"
            work = lambda a=a, q=query, t=tiles, o=out: a.prefill(q, t, o)  # noqa: E731
            yield meter.row("prefill", shape, case, work, a.prefill_flops(tokens), "matmul_tflops", error)
    for length in (2000, 8000):
        a, tokens = Attention(shape, [length], 64), 64
        query = a.queries(tokens)
        out, scratch = torch.empty_like(query), allocate_split(shape.geometry, query.device)
        for name, slots, split in (("whole", 0, None), ("split", SLOTS, scratch)):
            tiles = a.tiles(tokens, slots)
            a.prefill(query, tiles, out, split)
            error = attention_error(a, query, out, tokens)
            work = lambda a=a, q=query, t=tiles, o=out, s=split: a.prefill(q, t, o, s)  # noqa: E731
            case = f"chunk of {tokens} at {length}, {name}"
            yield meter.row("prefill", shape, case, work, a.prefill_flops(tokens), "matmul_tflops", error)


def norms(meter: Meter, shape: Shape) -> Iterator[Row]:
    weight = torch.rand(shape.hidden, device="cuda")
    for tokens in (1, 64, 8192, 65536):
        x, residual = (torch.randn(tokens, shape.hidden, device="cuda").bfloat16() for _ in range(2))
        out = torch.empty_like(x)
        wanted = norm.reference(x, residual.clone(), weight, 1e-5)
        error = relative(cuda_norm.add_rms_norm(x, residual.clone(), weight, 1e-5), wanted)
        work = lambda x=x, r=residual, o=out: cuda_norm.add_rms_norm(x, r, weight, 1e-5, o)  # noqa: E731
        yield meter.row("add + rms norm", shape, f"{tokens} tokens", work, 4 * x.nbytes, "copy_gbps", error)


def ropes(meter: Meter, shape: Shape) -> Iterator[Row]:
    none = torch.empty(0, device="cuda")
    angles = torch.rand(8192, shape.head_dim // 2, device="cuda") * 6
    rotation = (angles.cos(), angles.sin())
    for tokens in (1, 64, 8192, 65536):
        qkv = torch.randn(tokens, shape.linears["qkv"][0], device="cuda").bfloat16()
        positions = torch.arange(tokens, device="cuda") % 8192
        slots = torch.randperm(tokens, device="cuda")
        size = (-(-tokens // 64), 64, shape.kv_heads, shape.head_dim)
        caches = [LayerCache(*(torch.zeros(size, device="cuda").bfloat16() for _ in range(2)), 64) for _ in range(2)]
        out = torch.empty(tokens, shape.heads, shape.head_dim, device="cuda", dtype=torch.bfloat16)
        head_norm = rope_cache.HeadNorm(none, none, 0.0)
        wanted = rope_cache.reference(
            qkv, shape.heads, positions, slots, rotation, head_norm, caches[1], shape.kv_heads
        )
        work = lambda q=qkv, p=positions, s=slots, c=caches, o=out: cuda_rope.rope_and_cache(  # noqa: E731
            q, shape.heads, shape.kv_heads, p, s, rotation, (none, none, 0.0), c[0], o
        )
        work()
        error = max(relative(out, wanted), relative(caches[0].keys, caches[1].keys))
        yield meter.row("rope + cache", shape, f"{tokens} tokens", work, 2 * qkv.nbytes, "copy_gbps", error)


def activations(meter: Meter, shape: Shape) -> Iterator[Row]:
    for tokens in (1, 64, 8192, 65536):
        gate_up = torch.randn(tokens, 2 * shape.intermediate, device="cuda").bfloat16()
        out = gate_up.new_empty(tokens, shape.intermediate)
        error = relative(cuda_activation.gated(gate_up, "silu"), activation.reference(gate_up))
        work = lambda g=gate_up, o=out: cuda_activation.gated(g, "silu", o)  # noqa: E731
        yield meter.row("silu * up", shape, f"{tokens} tokens", work, 1.5 * gate_up.nbytes, "copy_gbps", error)


def samplers(meter: Meter, shape: Shape) -> Iterator[Row]:
    for rows in (1, 256):
        x = (torch.randn(rows, shape.vocab, device="cuda") * 3).bfloat16()
        ones = torch.ones(rows, device="cuda")
        ids = torch.arange(rows, device="cuda")
        plain = SamplingRows(ones, (ones * 0).int(), ones, ones * 0, ids, ids)
        cases = {
            "greedy": replace(plain, temperature=ones * 0),
            "temperature": plain,
            "top_k 50": replace(plain, top_k=(ones * 50).int()),
            "top_p 0.9": replace(plain, top_p=ones * 0.9),
            "top_k 50, top_p 0.9": replace(plain, top_k=(ones * 50).int(), top_p=ones * 0.9),
        }
        for name, parameters in cases.items():
            filtered = "top" in name
            work = lambda x=x, p=parameters, f=filtered: cuda_sample.sample(x, p, f)  # noqa: E731
            yield meter.row("sample", shape, f"{rows} rows, {name}", work, x.nbytes, "read_gbps")


def gemms(meter: Meter, shape: Shape) -> Iterator[Row]:
    for name, (n, k) in shape.linears.items():
        copies = max(1, int(3e8 // (n * k * 2)))  # more than the cache holds
        weights = [(torch.randn(n, k, device="cuda") / k**0.5).bfloat16() for _ in range(copies)]
        for rows in (1, 16, 64):
            x = torch.randn(rows, k, device="cuda").bfloat16()
            out = torch.empty(rows, n, device="cuda", dtype=torch.bfloat16)
            error = relative(gemm.skinny_linear(x, weights[0]), x.double() @ weights[0].double().t())

            def library(x: torch.Tensor = x, out: torch.Tensor = out, weights: list[torch.Tensor] = weights) -> None:
                for w in weights:
                    torch.mm(x, w.t(), out=out)

            def ours(x: torch.Tensor = x, out: torch.Tensor = out, weights: list[torch.Tensor] = weights) -> None:
                for w in weights:
                    gemm.skinny_linear(x, w, None, out)

            for label, work in (("cublas, no split-K", library), ("skinny", ours)):
                amount = copies * (n * k + rows * (n + k)) * 2
                row = meter.row(f"gemm {label}", shape, f"{name}, {rows} rows", work, amount, "read_gbps", error)
                yield replace(row, microseconds=row.microseconds / copies)


KERNELS = {
    "decode": decode, "cascade": cascade, "prefill": prefill, "norm": norms, "rope": ropes, "activation": activations,
    "sample": samplers, "process": processors, "gemm": gemms,
}  # fmt: skip


def main(names: list[str]) -> None:
    gemm.configure_batch_invariant_gemms()
    torch.manual_seed(0)
    meter = Meter(ceilings())
    rows: list[Row] = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}: {meter.ceilings}")
    for name in names or list(KERNELS):
        for shape in SHAPES:
            for row in KERNELS[name](meter, shape):
                rows.append(row)
                error = "" if row.error is None else f"{row.error:.1e}"
                print(
                    f"{row.kernel:24}{row.shape:9}{row.case:34}{row.microseconds:10.1f} us{row.rate:9.0f} {row.unit:8}"
                    f"{row.share:5.0%}  {error}",
                    flush=True,
                )
    invariance = checks()
    for check, holds in invariance.items():
        print(f"{'equal to the bit' if holds else 'DIFFERENT':18}{check}")
    folder = Path(os.environ.get("OUT", "outputs"))
    folder.mkdir(exist_ok=True)
    record = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "ceilings": meter.ceilings, "numerics": NUMERICS, "rows": [asdict(r) for r in rows], "invariance": invariance,
    }  # fmt: skip
    (folder / "kernels.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
