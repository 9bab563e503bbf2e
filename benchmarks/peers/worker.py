"""One engine in a process of its own: reads workload names from standard input, answers with seconds as JSON lines.

Usage: worker.py ENGINE MODEL_FOLDER DTYPE    (driven by cpu_vs_peers.py; works with the peers' own environments)
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.peers.workloads import WORKLOADS, Request

Run = Callable[[list[Request]], int]
STATIC_BATCH = 32


def galley(folder: str, dtype: str) -> Run:
    """Ours, with its defaults."""
    from engine import LLM, SamplingParams

    llm = LLM(folder, dtype=dtype, max_model_len=1024, enable_prefix_caching=False, skip_tokenizer_init=True)

    def run(requests: list[Request]) -> int:
        params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in requests]
        outputs = llm.generate([prompt for prompt, _ in requests], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def transformers(folder: str, dtype: str) -> Run:
    """``generate`` on static batches with left padding; a batch runs until its longest request ends."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None

    def run(requests: list[Request]) -> int:
        for start in range(0, len(requests), STATIC_BATCH):
            batch = requests[start : start + STATIC_BATCH]
            width = max(len(prompt) for prompt, _ in batch)
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in batch])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in batch])
            longest = max(n for _, n in batch)
            with torch.inference_mode():
                model.generate(ids, attention_mask=mask, max_new_tokens=longest, do_sample=False, pad_token_id=0)
        return sum(n for _, n in requests)

    return run


def vllm(folder: str, dtype: str, eager: bool = True) -> Run:
    """vLLM for CPUs."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        folder, dtype=dtype, max_model_len=1024, gpu_memory_utilization=0.3, enforce_eager=eager,
        enable_prefix_caching=False, skip_tokenizer_init=True,
    )  # fmt: skip

    def run(requests: list[Request]) -> int:
        params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in requests]
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt, _ in requests], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def vllm_compiled(folder: str, dtype: str) -> Run:
    """vLLM for CPUs with its compile step."""
    return vllm(folder, dtype, eager=False)


ENGINES = {"galley": galley, "transformers": transformers, "vllm": vllm, "vllm_compiled": vllm_compiled}


def main() -> None:
    name, folder, dtype = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w")  # engines print to standard output; answers keep a descriptor of their own
    os.dup2(2, 1)
    start = time.perf_counter()
    run = ENGINES[name](folder, dtype)
    print(json.dumps({"startup_s": time.perf_counter() - start}), file=answers, flush=True)
    for line in sys.stdin:
        kind, seed = json.loads(line)
        requests = WORKLOADS[kind](seed=seed)
        start = time.perf_counter()
        tokens = run(requests)
        seconds = time.perf_counter() - start
        assert tokens == sum(n for _, n in requests), f"{name} made {tokens} tokens"
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main()
