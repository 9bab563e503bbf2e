"""Measures Galley on a GPU with random weights: output tokens/s of each workload, start-up, and where the time went.

python benchmarks/gpu_engine.py [--models llama1b,llama8b] [--workloads single,chatlike,decode,sharedprefix]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_workloads import WORKLOADS, workload, write_model


def measure(name: str, kinds: list[str], repeats: int, arguments: dict[str, Any]) -> None:
    """One model over all workloads; prints a JSON line each."""
    start = time.perf_counter()
    from engine import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        model = write_model(name, Path(folder))
        llm = LLM(
            str(model), load_format="dummy", dtype="bfloat16", max_model_len=4096, skip_tokenizer_init=True, **arguments
        )
        llm.generate([[5] * 16], SamplingParams(temperature=0, max_tokens=1, ignore_eos=True), use_tqdm=False)
        print(json.dumps({"model": name, "startup_s": time.perf_counter() - start, **llm.stats().startup}), flush=True)
        for kind in kinds:
            for repeat in range(repeats):
                work = workload(kind, repeat)
                params = [
                    SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in work
                ]
                before, start = llm.stats(), time.perf_counter()
                outputs = llm.generate([prompt for prompt, _ in work], params, use_tqdm=False)
                seconds, after = time.perf_counter() - start, llm.stats()
                tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
                assert tokens == sum(n for _, n in work)
                line = {
                    "model": name, "kind": kind, "repeat": repeat, "output_tokens_s": round(tokens / seconds, 1),
                    "seconds": round(seconds, 3), "steps": after.steps - before.steps,
                    "step_seconds": round(after.busy_seconds - before.busy_seconds, 3),
                    "cached_tokens": after.cached_tokens - before.cached_tokens,
                }  # fmt: skip
                print(json.dumps(line), flush=True)
        llm.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", default="llama1b,llama8b")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--arguments", default="{}", help="engine arguments as JSON")
    options = parser.parse_args()
    for name in options.models.split(","):
        measure(name, options.workloads.split(","), options.repeats, json.loads(options.arguments))


if __name__ == "__main__":
    main()
