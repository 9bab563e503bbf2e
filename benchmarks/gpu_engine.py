"""Galley in a process of its own over the GPU workloads; prints a JSON line for its start and for each repeat.

    python benchmarks/gpu_engine.py --model llama8b [--workloads single,chatlike,decode,sharedprefix] [--arguments JSON]

``vs_vllm.py`` runs it beside its peer. On the CPU: ``--arguments '{"device": "cpu"}' --requests 4 --tokens 16`` and
``--changes`` that make the model small.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_measure import main


class Galley:
    """Ours, with its defaults."""

    def __init__(self, model: str, arguments: Mapping[str, Any]) -> None:
        from engine import LLM

        self.llm = LLM(model, load_format="dummy", skip_tokenizer_init=True, **arguments)

    def prepare(self, lengths: Sequence[int]) -> Any:
        """Parameters for outputs of so many tokens."""
        from engine import SamplingParams

        return [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for n in lengths]

    def generate(self, prompts: Sequence[list[int]], parameters: Any) -> int:
        """Complete the prompts; the number of output tokens."""
        outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def counters(self) -> Mapping[str, float]:
        """Steps, seconds in them, and what the cache did."""
        stats = self.llm.stats()
        return {
            "steps": stats.steps, "step_seconds": stats.busy_seconds, "cached_tokens": stats.cached_tokens,
            "preemptions": stats.preemptions,
        }  # fmt: skip

    def startup(self) -> Mapping[str, float]:
        """Seconds of its phases."""
        return self.llm.stats().startup


if __name__ == "__main__":
    main("galley", Galley)
