"""The measuring part of an engine's child process, the same for every engine: start-up, then repeats of workloads."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.children import Row, reporter
from benchmarks.gpu_workloads import Request, cut, workload, write_model

COMMON: Mapping[str, Any] = {"dtype": "bfloat16", "max_model_len": 4096, "gpu_memory_utilization": 0.85}
PACKAGES = ("torch", "triton", "transformers", "vllm")


class Peer(Protocol):
    """An engine under test: greedy, to the given lengths, past the end of sequence, without text."""

    def prepare(self, lengths: Sequence[int]) -> Any:
        """Parameters for outputs of so many tokens."""

    def generate(self, prompts: Sequence[list[int]], parameters: Any) -> int:
        """Complete the prompts; the number of output tokens."""

    def counters(self) -> Mapping[str, float]:
        """Totals whose growth over a repeat is reported with it."""

    def startup(self) -> Mapping[str, float]:
        """Seconds of the phases of its start, where it tells."""


def main(engine: str, build: Callable[[str, Mapping[str, Any]], Peer]) -> None:
    """Run an engine's child from its command line: rows ``ready``, ``repeat`` and, where it cannot be, ``failed``."""
    began = time.perf_counter()
    options = arguments()
    report = reporter()
    kinds = [kind for kind in options.workloads.split(",") if kind]
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(options.model, Path(folder), **options.changes)
        label = {"engine": engine, "model": options.model}
        try:
            peer = build(str(model), {**COMMON, **options.arguments})
        except ImportError as error:
            report({"event": "failed", **label, "reason": f"{engine} cannot be imported: {error}"})
            return
        peer.generate([[5] * 16], peer.prepare([1]))
        seconds = time.perf_counter() - began
        report({"event": "ready", **label, "startup_s": round(seconds, 2), "phases": dict(peer.startup()),
                "versions": versions()})  # fmt: skip
        for kind in kinds:
            for repeat in range(options.repeats):
                work = cut(workload(kind, options.seed + repeat), options.requests, options.tokens)
                report({"event": "repeat", **label, "workload": kind, "repeat": repeat, **timed(peer, work)})


def timed(peer: Peer, work: Sequence[Request]) -> Row:
    """One repeat: its rate, its size, and a digest of what was asked."""
    prompts, lengths = [prompt for prompt, _ in work], [length for _, length in work]
    parameters = peer.prepare(lengths)
    before, start = peer.counters(), time.perf_counter()
    tokens = peer.generate(prompts, parameters)
    seconds, after = time.perf_counter() - start, peer.counters()
    if tokens != sum(lengths):
        raise RuntimeError(f"the engine made {tokens} tokens where {sum(lengths)} were asked for")
    inputs = sum(len(prompt) for prompt in prompts)
    digest = hashlib.sha256(json.dumps([prompts, lengths]).encode()).hexdigest()[:16]
    row = {"output_tokens_s": round(tokens / seconds, 1), "seconds": round(seconds, 4), "input_tokens": inputs}
    grown = {name: round(after[name] - before[name], 3) for name in after}
    return row | {"output_tokens": tokens, "asked": digest, **grown}


def versions() -> dict[str, str]:
    """Versions of what computes, as installed in this child's interpreter."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def arguments() -> argparse.Namespace:
    """The child's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="llama8b")
    parser.add_argument("--workloads", default="single,chatlike,decode,sharedprefix", help="empty: start-up alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat")
    parser.add_argument("--arguments", type=json.loads, default={}, help="engine arguments as JSON")
    parser.add_argument("--changes", type=json.loads, default={}, help="entries of the model's config, as JSON")
    parser.add_argument("--requests", type=int, help="keep so many requests of each workload")
    parser.add_argument("--tokens", type=int, help="cut prompts and outputs to so many tokens")
    return parser.parse_args()
