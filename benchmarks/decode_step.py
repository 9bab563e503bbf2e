"""Time whole decode steps of random models in one graph, by kernel options: ``python benchmarks/decode_step.py``.

Kernels run in the order of the engine's decoder, each layer with weights of its own. Prints a table; also whether the
logits are the same to the bit under every option.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.kernel_cases import SHAPES, Attention, Shape
from kernels import norm, rope_cache
from kernels.attention import CudaAttentionBatch, paged_attention
from kernels.cuda import gemm
from kernels.cuda.decode_plan import allocate_plan, plan_decode
from kernels.cuda.numerics import PIECE
from kernels.cuda.options import KernelOptions, set_kernel_options
from kernels.linear import PackedLinear
from kernels.sample import SamplingRows, sample

LAYERS = {"llama8b": 32, "llama1b": 16, "smollm2": 30}
VARIANTS = {
    "all": KernelOptions(),
    "no early launch": KernelOptions(programmatic_launch=False),
    "no fused gate": KernelOptions(fused_gate=False),
    "cuBLAS": KernelOptions(skinny_gemm=False),
    "none": KernelOptions(skinny_gemm=False, programmatic_launch=False),
}


@dataclass(frozen=True)
class Model:
    """Random weights, with caches of random keys that all layers of a kind share."""

    shape: Shape
    layers: list[dict[str, PackedLinear]]
    head: PackedLinear
    scale: torch.Tensor  # [hidden], of every norm


def build(shape: Shape) -> Model:
    def matrix(name: str) -> PackedLinear:
        n, k = shape.linears[name]
        return PackedLinear(torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / k**0.5)

    layers = [{name: matrix(name) for name in ("qkv", "o", "gate_up", "down")} for _ in range(LAYERS[shape.name])]
    return Model(shape, layers, matrix("lm_head"), torch.rand(shape.hidden, device="cuda") + 0.5)


class Step:
    """One decode step of ``rows`` sequences with ``context`` tokens each."""

    def __init__(self, model: Model, rows: int, context: int) -> None:
        shape = model.shape
        self.model = model
        self.a = Attention(shape, [context] * rows, 64)
        self.x = torch.randn(rows, shape.hidden, device="cuda").bfloat16()
        self.contexts = self.a.contexts
        self.plan = allocate_plan(rows, rows * -(-context // PIECE), shape.heads, shape.head_dim, 0, self.x.device)
        self.positions = torch.full((rows,), context - 1, device="cuda")
        self.slots = self.a.tables[:, (context - 1) // 64].long() * 64 + (context - 1) % 64
        angles = torch.rand(context, shape.head_dim // 2, device="cuda") * 6
        self.rotation = (angles.cos(), angles.sin())
        none = torch.empty(0, device="cuda")
        self.head_norm = rope_cache.HeadNorm(none, none, 0.0)
        ones = torch.ones(rows, device="cuda")
        ids = torch.arange(rows, device="cuda")
        self.rows = SamplingRows(ones * 0, (ones * 0).int(), ones, ones * 0, ids, ids)

    def run(self) -> torch.Tensor:
        """Logits of the step."""
        shape, scale = self.model.shape, self.model.scale
        plan_decode(self.plan, self.contexts, self.a.none)
        batch = CudaAttentionBatch(len(self.positions), self.a.tables, self.plan)
        x, residual = self.x, torch.zeros_like(self.x)
        for layer in self.model.layers:
            x = layer["qkv"](norm.add_rms_norm(x, residual, scale, 1e-5))
            query = rope_cache.rope_and_cache(
                x, shape.heads, self.positions, self.slots, self.rotation, self.head_norm, self.a.cache, shape.kv_heads
            )
            x = paged_attention(query, self.a.cache, batch, shape.head_dim**-0.5, 0, x.dtype)
            x = layer["o"](x.flatten(1))
            x = layer["down"](layer["gate_up"].silu_mul(norm.add_rms_norm(x, residual, scale, 1e-5)))
        logits = self.model.head(norm.add_rms_norm(x, residual, scale, 1e-5))
        sample(logits, self.rows, False, ranked=False)
        return logits

    def capture(self) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        self.run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="relaxed"):
            logits = self.run()
        return graph, logits


def microseconds(graph: torch.cuda.CUDAGraph, replays: int = 5) -> float:
    """Mean time of a replay among some in a row."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(replays):
        graph.replay()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1e3 / replays


def measure(model: Model, rows: int, context: int, variants: dict[str, KernelOptions]) -> None:
    """Variants take turns, so that clocks and heat are the same for all."""
    step = Step(model, rows, context)
    graphs = {}
    for name, options in variants.items():
        set_kernel_options(options)
        graphs[name] = step.capture()
    times: dict[str, list[float]] = {name: [] for name in graphs}
    different = set()
    wanted: torch.Tensor | None = None
    for _ in range(11):
        for name, (graph, logits) in graphs.items():
            logits.fill_(float("nan"))
            times[name].append(microseconds(graph))
            wanted = logits.clone() if wanted is None else wanted
            if not torch.equal(logits, wanted):
                different.add(name)
    cells = (f"{n} {statistics.median(t):.0f}{' DIFFERENT' if n in different else ''}" for n, t in times.items())
    print(f"{model.shape.name:9}{rows:3} x {context:5}  us: {', '.join(cells)}", flush=True)


@torch.inference_mode()
def main(names: list[str]) -> None:
    gemm.configure_batch_invariant_gemms()
    torch.manual_seed(0)
    for shape in SHAPES:
        if not names or shape.name in names:
            model = build(shape)
            for rows in (1, 4, 16, 64):
                measure(model, rows, 500, VARIANTS)


if __name__ == "__main__":
    main(sys.argv[1:])
