"""Costs of steps against hand-computed numbers, a naive count, and torch's own count of transformers' operations."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from engine import LLM, SamplingParams
from engine.costs import Cost, DecoderCosts, EncoderCosts, StepGroups, seen_keys
from engine.model.spec import DecoderSpec, EncoderSpec
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request

SPEC = DecoderSpec(
    vocab_size=100, hidden_size=8, layers=3, heads=4, kv_heads=2, head_dim=4, intermediate_size=20,
    norm_eps=1e-5, max_position=4096, rope={},
)  # fmt: skip
# One layer's matrices: q 8x16, k and v 8x8 each, o 16x8, gate, up and down 8x20 each.
MATRICES = 128 + 64 + 64 + 128 + 3 * 160
LAYERS_BYTES = 3 * (2 * MATRICES + 4 * 16) + 4 * 8  # bfloat16 matrices, float32 norms: two a layer, one at the end
KEY_BYTES = 2 * 8 * 3 * 2  # a key and a value of 2 heads of 4, 3 layers, 2 bytes


def plan(*parts: tuple[int, int, bool], prompt: int = 1, **params: Any) -> StepPlan:
    """Slices of requests of their own: start, stop, whether it samples."""
    return StepPlan(
        [
            Slice(Request(n, [1] * prompt, SamplingParams(**params), 8), start, stop, samples, 0)
            for n, (start, stop, samples) in enumerate(parts)
        ]
    )


def costs(**changes: Any) -> DecoderCosts:
    return DecoderCosts.of(replace(SPEC, **changes), 2, 2)


def test_a_decode_step_by_hand() -> None:
    """Two sequences with 9 and 29 tokens in the cache, one new token each."""
    cost = costs().step(plan((9, 10, True), (29, 30, True)))
    attention = 4 * 4 * 4 * 3 * (10 + 30)  # 4 heads of 4, a score and a value of each key, 3 layers
    assert cost.flops == 2 * (2 * 3 * MATRICES) + 2 * (2 * 8 * 100) + attention
    embeddings, written, read = 2 * 8 * 2, 2 * KEY_BYTES, (9 + 29) * KEY_BYTES
    assert cost.bytes == LAYERS_BYTES + 8 * 100 * 2 + embeddings + written + read


def test_a_prompt_in_two_chunks_by_hand() -> None:
    first, second = costs().step(plan((0, 6, False))), costs().step(plan((6, 10, True)))
    per_key = 4 * 16 * 3
    assert first.flops == 6 * 2 * 3 * MATRICES + per_key * (1 + 2 + 3 + 4 + 5 + 6)
    assert first.bytes == LAYERS_BYTES + 6 * (16 + KEY_BYTES)  # nothing sampled: the head is not read
    assert second.flops == 4 * 2 * 3 * MATRICES + 2 * 800 + per_key * (7 + 8 + 9 + 10)
    assert second.bytes == LAYERS_BYTES + 1600 + 4 * (16 + KEY_BYTES) + 6 * KEY_BYTES


def test_chunks_compute_what_one_step_computes_and_read_the_weights_again() -> None:
    whole, parts = costs().step(plan((0, 10, True))), [costs().step(plan(p)) for p in ((0, 6, False), (6, 10, True))]
    assert sum(part.flops for part in parts) == whole.flops
    assert sum(part.bytes for part in parts) - whole.bytes == LAYERS_BYTES + 6 * KEY_BYTES


def test_biases_and_head_norms_are_weights_too() -> None:
    one = plan((0, 1, True))
    more = costs(qkv_bias=True, output_bias=True, mlp_bias=True, qk_norm=True).step(one).bytes - costs().step(one).bytes
    assert more == 3 * (2 * (16 + 8 + 8) + 2 * 8 + 2 * (20 + 20 + 8) + 4 * (4 + 4))


def test_scored_prompt_tokens_go_through_the_head() -> None:
    plain, scored = (costs().step(plan((0, 6, True), prompt=6, prompt_logprobs=n)) for n in (None, 0))
    assert scored.flops - plain.flops == 5 * costs().head_flops
    chunk = costs().step(plan((0, 4, False), prompt=6, prompt_logprobs=0))
    assert chunk.bytes - costs().step(plan((0, 4, False), prompt=6)).bytes == costs().head_bytes


def test_shared_tokens_are_read_once() -> None:
    both = plan((100, 101, True), (100, 101, True))
    assert costs().step(both).bytes - costs().step(both, shared_tokens=64).bytes == 64 * KEY_BYTES
    assert costs().step(both, shared_tokens=1000).bytes == costs().step(plan((0, 1, True), (0, 1, True))).bytes


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 70))
def test_a_window_limits_the_keys_seen_and_read(start: int, count: int, window: int) -> None:
    stop = start + count
    naive = [set(range(max(0, i + 1 - window), i + 1)) for i in range(start, stop)]
    assert seen_keys(start, stop, window) == sum(map(len, naive))
    limited = costs(sliding_window=window)
    cost, none = limited.step(plan((start, stop, False))), limited.step(plan((0, count, False)))
    assert cost.bytes - none.bytes == len(set.union(*naive) & set(range(start))) * KEY_BYTES
    if window >= stop:
        assert cost == costs().step(plan((start, stop, False)))


def test_an_encoder_by_hand() -> None:
    spec = EncoderSpec(
        vocab_size=50, hidden_size=8, layers=2, heads=2, intermediate_size=12, norm_eps=1e-12, max_position=64,
        segments=2, activation="gelu",
    )  # fmt: skip
    cost = EncoderCosts.of(spec, 4).step([5, 3])
    assert cost.flops == 8 * 2 * 2 * (4 * 64 + 2 * 96) + 2 * 4 * 8 * (25 + 9)
    layer = 4 * 64 + 2 * 96 + (4 * 8 + 12 + 8) + 2 * 2 * 8
    assert cost.bytes == 4 * (2 * layer + 2 * 8) + 8 * 2 * 8 * 4


def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    config = LlamaConfig(
        vocab_size=100, hidden_size=8, intermediate_size=20, attn_implementation="eager", **sizes
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def counted(model: Any, **inputs: Any) -> tuple[int, Any]:
    """torch's count of a forward pass without the rotary tables, which are products only by the way they are made."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = model(**inputs, use_cache=True)
    by_module = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    rotary = sum(flops for name, flops in by_module.items() if name.endswith("rotary_emb"))
    return counter.get_total_flops() - rotary, outputs


def test_products_are_those_that_torch_counts() -> None:
    """A token after a cached prompt sees every key, so everything must agree; over the prompt, transformers also
    computes the scores that the causal mask hides."""
    model = tiny_llama()
    prompt, cached = counted(model, input_ids=torch.arange(10)[None], logits_to_keep=1)
    token, _ = counted(model, input_ids=torch.tensor([[5]]), past_key_values=cached.past_key_values)
    assert costs().step(plan((10, 11, True))).flops == token
    hidden_by_the_mask = costs().key_flops * (10 * 10 - 10 * 11 // 2)
    assert costs().step(plan((0, 10, True))).flops == prompt - hidden_by_the_mask


def test_weights_are_those_of_transformers() -> None:
    model = tiny_llama()
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    everything = sum(p.numel() for p in model.parameters()) - model.model.embed_tokens.weight.numel()
    cost = costs()
    assert cost.layer_bytes + cost.head_bytes == 2 * (everything - norms) + 4 * norms


@given(st.lists(st.tuples(st.integers(1, 10**15), st.integers(1, 10**12)), min_size=1, max_size=60))
def test_grouped_steps_keep_their_totals_and_their_floor(steps: list[tuple[int, int]]) -> None:
    groups = StepGroups()
    for flops, moved in steps:
        groups.add(Cost(flops, moved), 0.5)
    found = groups.groups()
    assert sum(g.steps for g in found) == len(steps)
    assert sum(g.flops for g in found) == sum(f for f, _ in steps)
    assert sum(g.bytes for g in found) == sum(b for _, b in steps)
    assert math.isclose(sum(g.seconds for g in found), 0.5 * len(steps))
    rate, bandwidth = 3e14, 2e12
    exact = sum(max(f / rate, b / bandwidth) for f, b in steps)
    grouped = sum(max(g.flops / rate, g.bytes / bandwidth) for g in found)
    assert exact / 1.045 <= grouped <= exact * (1 + 1e-9)


def test_the_engine_adds_its_steps_up(smol: LLM, limited: Any, prompts: list[list[int]]) -> None:
    """Decoding 9 tokens after one prompt: the totals are what the formula gives for these ten steps."""
    llm = limited(smol, prefix_caching=False)
    prompt = prompts[8]
    llm.generate([prompt], SamplingParams(temperature=0, max_tokens=10, ignore_eos=True), use_tqdm=False)
    stats, n = llm.stats(), len(prompt)
    cost = llm._engine.core.model.costs
    expected = [cost.step(plan((0, n, True))), *(cost.step(plan((n + i, n + i + 1, True))) for i in range(9))]
    assert (stats.steps, stats.flops, stats.bytes) == (
        10,
        sum(c.flops for c in expected),
        sum(c.bytes for c in expected),
    )
    assert sum(group.steps for group in stats.step_groups) == 10
    assert sum(group.seconds for group in stats.step_groups) == pytest.approx(stats.busy_seconds)
    assert (stats.device_busy_seconds, stats.peak_allocated_bytes) == (None, None)
    assert stats.device["type"] == "cpu"


def test_completions_of_one_prompt_read_its_blocks_once(smol: LLM, limited: Any, prompts: list[list[int]]) -> None:
    """The same work for four children of one prompt as for four prompts, but for the blocks that they share."""
    prompt, params = prompts[24], {"temperature": 1.0, "max_tokens": 8, "ignore_eos": True, "seed": 1}
    shared, apart = limited(smol), limited(smol, prefix_caching=False)
    shared.generate([prompt], SamplingParams(n=4, **params), use_tqdm=False)
    apart.generate([prompt] * 4, SamplingParams(**params), use_tqdm=False)
    cost = shared._engine.core.model.costs
    full_blocks = (len(prompt) - 1) // 16 * 16
    # seven decode steps each read the shared blocks once and not four times
    assert shared.stats().bytes < apart.stats().bytes - 7 * 3 * (full_blocks - 16) * cost.key_bytes
