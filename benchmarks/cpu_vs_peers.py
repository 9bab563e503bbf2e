"""Compares engines on this CPU: the same work, interleaved in one run, medians.

    python benchmarks/cpu_vs_peers.py [--dtype bfloat16] [--repeats 3] [--vllm PYTHON] [--engines galley,transformers]

transformers is always there; vLLM runs where ``--vllm`` names the interpreter of an environment that has it. The model
is SmolLM2-135M-Instruct, written once as a Hugging Face folder so that every engine reads the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@dataclass
class Worker:
    """One engine's process."""

    name: str
    process: subprocess.Popen[str]
    startup: float = 0.0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def read(self) -> dict[str, Any]:
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            raise SystemExit(f"{self.name} ended early, see its messages above")
        return cast(dict[str, Any], json.loads(line))

    def run(self, kind: str, seed: int) -> float:
        stdin = cast(IO[str], self.process.stdin)
        stdin.write(json.dumps([kind, seed]) + "\n")
        stdin.flush()
        answer = self.read()
        self.tokens[kind] = answer["tokens"]
        return float(answer["seconds"])


def export_model(folder: Path) -> None:
    """Write SmolLM2 from its GGUF file as config.json and safetensors."""
    from safetensors.torch import save_file

    from engine.model.files import resolve_model
    from engine.model.weights import iter_weights, read_config

    files = resolve_model("smollm2-135m-instruct")
    config = read_config(files, {}) | {"torch_dtype": "float32"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.contiguous() for name, tensor in iter_weights(files)},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def start(name: str, python: str, model: Path, dtype: str) -> Worker:
    """Start an engine and wait until it is ready."""
    environment = os.environ | {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "2",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "0-1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [python, str(ROOT / "benchmarks/peers/worker.py"), name, str(model), dtype]
    pipe = subprocess.PIPE
    worker = Worker(name, subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment))
    worker.startup = worker.read()["startup_s"]
    worker.run("single", 99)  # warm-up: compiled kernels, caches
    print(f"{name}: ready in {worker.startup:.1f} s", flush=True)
    return worker


def measure(workers: list[Worker], kinds: list[str], repeats: int) -> None:
    """Every engine in turn on every workload, ``repeats`` times over."""
    for repeat in range(repeats):
        for kind in kinds:
            for worker in workers:
                seconds = worker.run(kind, repeat)
                worker.seconds.setdefault(kind, []).append(worker.tokens[kind] / seconds)
                print(f"  {kind} {repeat} {worker.name}: {worker.tokens[kind] / seconds:.1f} tokens/s", flush=True)


def table(workers: list[Worker], kinds: list[str]) -> str:
    """Median output tokens per second, and the ratio to transformers."""
    base = next((worker for worker in workers if worker.name == "transformers"), workers[0])
    lines = [f"| engine | start-up | {' | '.join(kinds)} |", "|---" * (len(kinds) + 2) + "|"]
    for worker in workers:
        cells = []
        for kind in kinds:
            value = statistics.median(worker.seconds[kind])
            cells.append(f"{value:.0f} ({value / statistics.median(base.seconds[kind]):.2f}x)")
        lines.append(f"| {worker.name} | {worker.startup:.1f} s | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workloads", default="single,uniform,mixed")
    parser.add_argument("--engines", default="galley,transformers")
    parser.add_argument("--vllm", help="interpreter of an environment with vLLM; adds the engine vllm")
    parser.add_argument("--vllm-compiled", action="store_true", help="add vLLM with its compile step too")
    options = parser.parse_args()
    kinds = options.workloads.split(",")
    with tempfile.TemporaryDirectory() as folder:
        export_model(Path(folder))
        workers = [start(name, sys.executable, Path(folder), options.dtype) for name in options.engines.split(",")]
        if options.vllm:
            peers = ["vllm", "vllm_compiled"] if options.vllm_compiled else ["vllm"]
            workers += [start(name, options.vllm, Path(folder), options.dtype) for name in peers]
        measure(workers, kinds, options.repeats)
        for worker in workers:
            worker.process.kill()
    print(f"\n{options.dtype}, output tokens/s, median of {options.repeats} (ratio to transformers)\n")
    print(table(workers, kinds))


if __name__ == "__main__":
    main()
