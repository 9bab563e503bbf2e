"""vLLM in a process of its own over the GPU workloads: the same command line and rows as benchmarks/gpu_engine.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")  # would be compiled at start; nothing is drawn here

from benchmarks.gpu_measure import main

sys.path.pop()  # ``kernels`` and ``engine`` are names of other packages too, which vLLM's imports may look for


class Vllm:
    """vLLM with its defaults."""

    def __init__(self, model: str, arguments: Mapping[str, Any]) -> None:
        from vllm import LLM

        self.llm = LLM(model=model, load_format="dummy", skip_tokenizer_init=True, **arguments)

    def prepare(self, lengths: Sequence[int]) -> Any:
        """Parameters for outputs of so many tokens."""
        from vllm import SamplingParams

        return [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for n in lengths]

    def generate(self, prompts: Sequence[list[int]], parameters: Any) -> int:
        """Complete the prompts; the number of output tokens."""
        outputs = self.llm.generate([{"prompt_token_ids": p} for p in prompts], parameters, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def counters(self) -> Mapping[str, float]:
        """None."""
        return {}

    def startup(self) -> Mapping[str, float]:
        """Not told."""
        return {}


if __name__ == "__main__":
    main("vllm", Vllm)
