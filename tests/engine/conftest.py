"""Real models, loaded once per session, and the same models in transformers."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that wait must not take the cores

import pytest

from engine import LLM
from engine.model.files import resolve_model
from engine.model.weights import iter_weights, read_config

SMOLLM = "smollm2-135m-instruct"
MINILM = "all-minilm-l6-v2"
ARTICLES = Path(__file__).parent.parent.parent / "recipes" / "data" / "articles.jsonl"


@pytest.fixture(scope="session")
def smol() -> Iterator[LLM]:
    """SmolLM2 in float32 with the engine's own defaults."""
    with LLM(SMOLLM, dtype="float32") as llm:
        yield llm


@pytest.fixture(scope="session")
def smol_bf16() -> Iterator[LLM]:
    with LLM(SMOLLM, dtype="bfloat16") as llm:
        yield llm


@pytest.fixture(scope="session")
def minilm() -> Iterator[LLM]:
    with LLM(MINILM, dtype="float32") as llm:
        yield llm


@pytest.fixture(scope="session")
def reference() -> Any:
    """SmolLM2 in transformers, float32, from the same tensors (``test_weights`` compares those with its own reader)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    files = resolve_model(SMOLLM)
    config = LlamaConfig(**read_config(files, {}), attn_implementation="sdpa")
    model = LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(dict(iter_weights(files)), strict=False)
    assert (missing, unexpected) in (([], []), (["lm_head.weight"], []))
    model.tie_weights()
    torch.set_grad_enabled(False)
    yield model
    torch.set_grad_enabled(True)


@pytest.fixture(scope="session")
def articles() -> list[str]:
    """The texts of the shipped articles."""
    return [json.loads(line)["article"] for line in ARTICLES.read_text().splitlines()]


@pytest.fixture(scope="session")
def prompts(smol: LLM, articles: list[str]) -> list[list[int]]:
    """32 prompts of 5 to 500 tokens, each the beginning of an article (the longest ones of two)."""
    tokenizer = smol.get_tokenizer()
    lengths = [round(5 * 100 ** (i / 31)) for i in range(32)]
    texts = [f"{one}\n\n{other}" for one, other in zip(articles[:32], articles[32:], strict=True)]
    return [tokenizer(text)["input_ids"][:length] for text, length in zip(texts, lengths, strict=True)]


def with_limits(base: LLM, **changes: Any) -> LLM:
    """An engine with other limits over the same weights, which loading anew would cost seconds."""
    from engine.execute.model_runner import ModelRunner
    from engine.execute.swap import SwappingRunner
    from engine.generation import GenerationCore

    engine = base._engine
    assert engine is not None
    core = engine.core
    assert isinstance(core, GenerationCore)
    limits = replace(core.scheduler.limits, **changes)
    runner = ModelRunner(core.runner.model, limits.blocks, limits.block_size, core.runner.device)
    swapping = SwappingRunner(runner, limits.swap_slots) if limits.swap_slots else runner
    llm = copy.copy(base)
    llm._engine = replace(engine, core=GenerationCore(core.model, swapping, limits, core.tokenizer))
    return llm


@pytest.fixture(scope="session")
def limited() -> Callable[..., LLM]:
    """``with_limits``: an LLM, then fields of ``Limits``."""
    return with_limits
