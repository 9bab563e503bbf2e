"""Time of a draw on the CPU: the engine's against the definition by sorting, medians, interleaved.

``python benchmarks/cpu_sampling.py [--repeats 9]``
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from kernels.sample import SamplingRows, draw, reference

VOCAB = 49152  # SmolLM2's
DEVIATION = 2.0  # of the random logits
KINDS: Mapping[str, Mapping[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {},
    "top_k=50": {"top_k": 50},
    "top_p=0.95": {"top_p": 0.95},
    "min_p=0.05": {"min_p": 0.05},
    "top_k=50, top_p=0.9": {"top_k": 50, "top_p": 0.9},
}


def sampling_rows(count: int, kind: Mapping[str, float]) -> SamplingRows:
    """The same parameters for every row; seeds and positions differ."""
    return SamplingRows(
        temperature=torch.full((count,), kind.get("temperature", 1.0)),
        top_k=torch.full((count,), int(kind.get("top_k", 0)), dtype=torch.int32),
        top_p=torch.full((count,), kind.get("top_p", 1.0)),
        min_p=torch.full((count,), kind.get("min_p", 0.0)),
        seeds=torch.arange(count) * 7919 + 3,
        positions=torch.arange(count) + 17,
    )


def medians(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call, one after the other in every round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    print(f"{torch.get_num_threads()} threads, vocabulary {VOCAB}, normal logits, deviation {DEVIATION}; ms")
    print("| rows | parameters | by sorting | draw |\n|---|---|---|---|")
    for count in (1, 16, 64):
        logits = torch.randn(count, VOCAB, generator=torch.Generator().manual_seed(0)) * DEVIATION
        for name, kind in KINDS.items():
            rows = sampling_rows(count, kind)
            found = medians(
                {"sorting": lambda: reference(logits, rows), "draw": lambda: draw(logits, rows, True)},  # noqa: B023
                repeats,
            )
            print(f"| {count} | {name} | {found['sorting']:.2f} | {found['draw']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
