"""A draft model over the target's blocks: its drafts change nothing, and equal models agree on every token."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine import LLM, SamplingParams
from engine.execute.draft_model import DraftModelRunner
from engine.execute.model_runner import ModelRunner
from engine.execute.swap import SwappingRunner
from engine.generation import GenerationCore
from engine.model.checkpoint import Checkpoint
from engine.model.decoder import Decoder
from engine.params import ParameterError
from engine.speculate.config import SpeculativeConfig
from engine.speculate.proposer import Proposer
from tests.engine.ask import SMOLLM, outputs
from tests.engine.test_speculation import PREEMPT, essence

Limited = Callable[..., LLM]
CPU = torch.device("cpu")


def drafted(llm: LLM, draft: Decoder | None) -> LLM:
    """The engine with a draft model: its own model where ``draft`` is None."""
    core = llm._open.core
    assert isinstance(core, GenerationCore)
    limits = core.scheduler.limits
    model: Decoder = getattr(core.runner, "inner", core.runner).model  # type: ignore[union-attr]
    runners = [ModelRunner(one, limits.blocks, limits.block_size, CPU) for one in (model, draft or model)]
    plain: Any = DraftModelRunner(*runners)
    core.runner = SwappingRunner(plain, limits.swap_slots) if limits.swap_slots else plain
    core._proposer = Proposer(SpeculativeConfig(model="any", num_speculative_tokens=4))
    return llm


def work(llm: LLM, articles: list[str]) -> tuple[list[list[int]], list[SamplingParams]]:
    tokenizer, draw = llm.get_tokenizer(), random.Random(7)
    prompts = [tokenizer(articles[i])["input_ids"][: draw.randint(3, 60)] for i in range(14)]
    prompts += [prompts[9][:33] + prompts[i][:5] for i in range(4)]  # prefix cache hits
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "logprobs": 1},
        {"temperature": 0.8, "top_p": 0.9, "logprobs": 0},
        {"temperature": 1.0, "n": 2, "repetition_penalty": 1.2},
        {"temperature": 0.0, "stop": [" the", "."]},
    ]
    return prompts, [SamplingParams(max_tokens=draw.randint(2, 14), seed=i, **kinds[i % 4]) for i in range(18)]


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_seqs": 3, "max_tokens": 24},
        {"prefix_caching": False, **PREEMPT},
        {"swap_slots": 100, **PREEMPT},
    ],
    ids=str,
)
def test_a_model_that_drafts_for_itself_is_always_right(
    smol: LLM, limited: Limited, articles: list[str], limits: dict[str, Any]
) -> None:
    """Every draft is right only if both caches hold the right keys, after chunks, prefix hits, preemption and swap."""
    prompts, params = work(smol, articles)
    llm = drafted(limited(smol, **{"draft_room": 200, **limits}), None)
    assert essence(outputs(llm, prompts, params)) == essence(outputs(limited(smol), prompts, params))
    stats = llm.stats()
    assert stats.accepted_tokens == stats.drafted_tokens > 60
    assert (stats.preemptions > 0) == ("blocks" in limits)
    assert (stats.swapped_in > 0) == ("swap_slots" in limits)
    shared = sum(len(prompt) for prompt, each in zip(prompts, params, strict=True) if each.n > 1)
    assert stats.cached_tokens > 0
    assert limits.get("prefix_caching", True) or stats.cached_tokens <= shared


def ignorant(llm: LLM) -> Decoder:
    """A small model of random weights with the engine's vocabulary."""
    core: Any = llm._open.core
    spec = replace(
        core.runner.model.spec, layers=1, heads=4, kv_heads=2, hidden_size=64, intermediate_size=96, head_dim=32
    )
    return Decoder(spec, Checkpoint(None, torch.float32, CPU, 1), 2048)


def test_a_model_that_knows_nothing_changes_nothing(smol: LLM, limited: Limited, articles: list[str]) -> None:
    prompts, params = work(smol, articles)
    llm = drafted(limited(smol, draft_room=200, swap_slots=100, **PREEMPT), ignorant(smol))
    assert essence(outputs(llm, prompts, params)) == essence(outputs(limited(smol), prompts, params))
    stats = llm.stats()
    assert stats.swapped_in > 0
    assert 0 < stats.drafted_tokens < 120, "drafts that are never right come rarely"
    assert stats.accepted_tokens < stats.drafted_tokens / 10


def test_prompts_of_embeddings_are_never_drafted_for(smol: LLM, limited: Limited, articles: list[str]) -> None:
    """They are the target's: the draft model has another hidden size."""
    core: Any = smol._open.core
    llm = drafted(limited(smol, draft_room=200), ignorant(smol))
    changed: Any = llm._open.core
    changed._intake._model = replace(changed._intake._model, embedding_size=576)
    prompts, params = work(smol, articles)
    params = [replace(each, repetition_penalty=1.0) for each in params]  # which would know the tokens
    given: list[Any] = [{"prompt_embeds": core.runner.model.embedding[ids]} for ids in prompts]
    expected = essence(outputs(limited(smol), prompts, params))
    assert essence(outputs(llm, given, params)) == expected
    assert llm.stats().drafted_tokens == 0
    assert essence(outputs(llm, [*given[:9], *prompts[9:]], params)) == expected
    assert llm.stats().drafted_tokens > 0


def test_through_the_arguments(smol: LLM) -> None:
    prompt, params = "The capital of France is", SamplingParams(temperature=0, max_tokens=20)
    with LLM(SMOLLM, dtype="float32", speculative_config={"model": SMOLLM, "num_speculative_tokens": 3}) as llm:
        assert essence(outputs(llm, prompt, params)) == essence(outputs(smol, prompt, params))
        assert llm.stats().acceptance_rate == 1.0
        assert llm.stats().steps < 8


@pytest.mark.parametrize(
    ("model", "said"),
    [("all-minilm-l6-v2", "a decoder: this model is an encoder"), ("no-such-model", "no-such-model")],
)
def test_models_that_cannot_draft_are_refused(model: str, said: str) -> None:
    with pytest.raises((ParameterError, ValueError), match=said):
        LLM(SMOLLM, speculative_config={"model": model})
