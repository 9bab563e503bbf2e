"""Time GPU work in captured graphs, and measure a device's ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def milliseconds(work: Callable[[], object], inner: int = 10, repeats: int = 7) -> float:
    """Median time of one ``work()``, from replays of a graph that holds ``inner`` of them: the host costs nothing."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        work()
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(inner):
            work()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / inner)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """Copy and read bandwidth in GB/s, and bf16 matrix products in TFLOP/s, all on random data."""
    big = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    other = torch.empty_like(big)
    copy = 2 * big.nbytes / milliseconds(lambda: torch.neg(big, out=other), 3) / 1e6  # a kernel, not the copy engine
    wide = big.view(torch.int64)
    read = big.nbytes / milliseconds(lambda: wide.sum(), 3) / 1e6
    a, b = big[: 1 << 26].view(8192, 8192), big[1 << 26 : 1 << 27].view(8192, 8192)
    product = torch.empty_like(a)
    matmul = 2 * 8192**3 / milliseconds(lambda: torch.mm(a, b, out=product), 5) / 1e9
    return {"copy_gbps": copy, "read_gbps": read, "matmul_tflops": matmul}
