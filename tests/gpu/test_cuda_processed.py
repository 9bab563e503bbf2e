"""Grammars and processed logits on a CUDA device: tokens do not depend on the batch or on how steps are launched.

Run by hand on a machine with a GPU: ``pytest tests/gpu -m gpu``.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from engine import LLM, SamplingParams
from engine.outputs import RequestOutput

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
KINDS: list[dict[str, Any]] = [
    {},
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"regex": "[a-f]{3,9}"}, "logit_bias": {66: 3.0, 67: 2.0}},
    {"logit_bias": dict.fromkeys(range(400, 430), 6.0), "min_tokens": 12},
    {"allowed_token_ids": list(range(200, 900)), "top_p": 0.9},
    {"bad_words": ["the", "of the", "a", "in a"], "top_k": 40},
    {"repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.1, "min_p": 0.02},
]
COUNT = 8 * len(KINDS)
PROMPTS = [f"Tell me about number {i}." for i in range(COUNT)]
PARAMS = [SamplingParams(seed=i, temperature=i % 3 / 2, max_tokens=24, **KINDS[i % len(KINDS)]) for i in range(COUNT)]


def generate(**args: Any) -> list[RequestOutput]:
    with LLM("smollm2-135m-instruct", dtype="bfloat16", max_model_len=512, device="cuda", **args) as llm:
        return llm.generate(PROMPTS, PARAMS, use_tqdm=False)


def tokens(outputs: list[RequestOutput]) -> list[tuple[int, ...]]:
    return [tuple(output.outputs[0].token_ids) for output in outputs]


def test_tokens_do_not_depend_on_the_batch_or_the_launch() -> None:
    together = generate(max_num_seqs=64)
    expected = tokens(together)
    for args in (
        {"max_num_seqs": 3},
        {"max_num_seqs": 64, "async_scheduling": False},
        {"max_num_seqs": 64, "enforce_eager": True},
        {"max_num_seqs": 17, "max_num_batched_tokens": 64},
    ):
        assert tokens(generate(**args)) == expected, args
    for i, output in enumerate(together):
        (completion,) = output.outputs
        if i % len(KINDS) == 1 and completion.finish_reason == "stop":
            assert set(json.loads(completion.text)) == {"name", "age"}
        elif i % len(KINDS) == 2:
            assert re.fullmatch("[a-f]{3,9}", completion.text), completion.text
        elif i % len(KINDS) == 4:
            assert all(200 <= token < 900 for token in completion.token_ids[:-1])
