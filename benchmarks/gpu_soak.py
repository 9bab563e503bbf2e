"""Soaks the engine on a GPU: 20,000 mixed requests on a 1B model, cancellations, forced preemptions, a small cache.

    python benchmarks/gpu_soak.py --out soak.json [--requests 20000] [--arguments '{"preemption_mode": "swap"}']

Ends with an error if a block leaks, a request is lost or answered twice, an output is not one that its request allows,
a log-probability is not finite, a finished request gives other tokens alone, or memory grows beyond the bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_workloads import write_model
from benchmarks.soak import MIB, Plan, Soak
from benchmarks.soak_traffic import Traffic
from engine.args import EngineArgs
from engine.build import build
from engine.generation import GenerationCore

# From the warm rounds to the last: Python objects, and MiB. On a CPU, ``host`` needs more requests to settle: oneDNN
# keeps code for every number of rows that it has met.
BOUNDS = {"objects": 5000.0, "host": 256.0, "allocated": 32.0, "reserved": 512.0, "device": 1024.0}


def main() -> None:
    """Run, print and write the result."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(options.model, Path(folder), **options.changes)
        given = {"dtype": "bfloat16", "max_model_len": options.length, "kv_cache_memory_bytes": options.cache_mib * MIB}
        arguments = {**given, "max_num_seqs": 256, **options.arguments}
        core = build(EngineArgs(model=str(model), load_format="dummy", skip_tokenizer_init=True, **arguments)).core
    assert isinstance(core, GenerationCore)
    traffic = Traffic(core.model.vocab_size, options.length, options.prompt, options.output)
    soak = Soak(core, traffic, Plan(requests=options.requests), lambda line: print(line, flush=True))
    start = time.perf_counter()
    growth = soak.run()
    totals = {name: value for name, value in asdict(core.stats()).items() if isinstance(value, int)}
    result = {
        "requests": options.requests, **soak.account.counts, "reasons": soak.account.reasons, "steps": soak.steps,
        "output_tokens": soak.account.tokens, "forced": soak.preempted, "engine": totals,
        "seconds": round(time.perf_counter() - start, 1), "growth": growth,
        "ran_again_alone": len(soak.done), "memory": [asdict(memory) for memory in soak.memory],
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result.items():
        if name != "memory":
            print(f"{name:16} {value}")
    beyond = {name: value for name, value in growth.items() if value > BOUNDS[name]}
    print(f"memory grew beyond its bound: {beyond}, bounds {BOUNDS}" if beyond else "nothing leaked, nothing broke")
    sys.exit(1 if beyond else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/soak.json"))
    parser.add_argument("--model", default="llama1b")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=2048, help="max_model_len")
    parser.add_argument("--prompt", type=int, default=60, help="tokens of a typical prompt")
    parser.add_argument("--output", type=int, default=30, help="tokens of a typical output")
    parser.add_argument("--cache-mib", type=int, default=768, help="size of the KV cache, small so that it runs out")
    parser.add_argument("--arguments", type=json.loads, default={}, help="engine arguments as JSON")
    parser.add_argument("--changes", type=json.loads, default={}, help="entries of the model's config, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
