"""Short ways to ask an LLM, for the tests."""

from __future__ import annotations

from typing import Any

from engine import LLM, CompletionOutput, RequestOutput, SamplingParams

SMOLLM = "smollm2-135m-instruct"
PROMPT = "The capital of France is"
TINY: dict[str, Any] = {  # the config.json of a model of random weights
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
LIST = "Count: one, two, three, four, five, six,"


def greedy(**fields: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 0, "max_tokens": 12} | fields))


def outputs(llm: LLM, prompts: Any, params: Any) -> list[RequestOutput]:
    return llm.generate(prompts, params, use_tqdm=False)


def complete(llm: LLM, prompt: Any = LIST, **fields: Any) -> CompletionOutput:
    (output,) = outputs(llm, prompt, greedy(**fields))
    assert output.error is None
    return output.outputs[0]
