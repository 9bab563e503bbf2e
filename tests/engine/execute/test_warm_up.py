"""A new process, since a kernel that another test has compiled would prove nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from numba.core.dispatcher import Dispatcher
from engine import LLM, SamplingParams

def compiled():
    modules = [module for name, module in sys.modules.items() if name.startswith("kernels.cpu")]
    kernels = {k.py_func.__qualname__: k for m in modules for k in vars(m).values() if isinstance(k, Dispatcher)}
    return {name: len(kernel.signatures) for name, kernel in kernels.items()}

if __name__ == "__main__":
    llm = LLM("smollm2-135m-instruct", **json.loads(sys.argv[1]))
    found = [llm.stats().startup, llm.stats().output_tokens, compiled()]
    kinds = [{"temperature": 0}, {"top_k": 5}, {}, {"repetition_penalty": 1.2, "logprobs": 2}, {"frequency_penalty": 1}]
    params = [SamplingParams(max_tokens=4, seed=1, **kind) for kind in kinds]
    outputs = llm.generate(["One, two,"] * len(params), params, use_tqdm=False)
    print(json.dumps([*found, compiled(), sum(len(output.outputs[0].token_ids) for output in outputs)]))
"""


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_requests_find_their_kernels_compiled(dtype: str) -> None:
    args = {"dtype": dtype, "max_model_len": 64}
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(args)], capture_output=True, text=True, check=True)
    startup, tokens, before, after, generated = json.loads(done.stdout)
    assert startup["warmup"] > 0
    assert tokens == 0
    assert before == after
    assert before["paged_attention"] == 1
    assert generated == 20


def test_the_shortest_model_has_no_room_for_a_second_step() -> None:
    from engine import LLM, SamplingParams

    with LLM("smollm2-135m-instruct", max_model_len=2, kv_cache_memory_bytes=2**22) as llm:
        output = llm.generate("One", SamplingParams(temperature=0.0, max_tokens=4), use_tqdm=False)[0]
    assert len(output.outputs[0].token_ids) == 1
