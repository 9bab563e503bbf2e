"""The runner of CUDA devices, on the CPU: Triton's interpreter in place of a device, the same steps without capture.

One layer of attention over the paged cache, so that a wrong position, slot, block table, context or row shows in the
tokens; compared with the same layer over whole sequences.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine import SamplingParams
from engine.costs import DecoderCosts
from engine.execute import shared_blocks
from engine.execute.cuda_runner import CudaModelRunner
from engine.execute.draft_model import DraftModelRunner
from engine.execute.step_graphs import Computed
from engine.execute.step_layout import StepShape, row_bucket
from engine.execute.swap import SwappingRunner
from engine.generation import GenerationCore, GenerationModel
from engine.model.decoder import DecoderBatch
from engine.outputs import RequestOutput
from engine.schedule.limits import Limits
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request
from engine.speculate.config import SpeculativeConfig
from engine.speculate.proposer import Proposer
from engine.text.inputs import Input
from kernels.attention import paged_attention
from kernels.cuda.rope_cache import rope_and_cache
from kernels.kv_cache import LayerCache

VOCAB, HEADS, KV_HEADS, HEAD_DIM, BLOCK, MAX_LEN = 61, 4, 2, 16, 16, 640
CPU = torch.device("cpu")
COSTS = DecoderCosts(1, 1, 1, 1, 1, 1, 1, 0)


class OneLayer:
    """A model of one attention layer, small enough to be interpreted."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(5)
        self.spec: Any = SimpleNamespace(
            layers=1, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, sliding_window=0, vocab_size=VOCAB
        )
        self.dtype = torch.float32
        width = HEADS * HEAD_DIM
        self.embedding = torch.randn(VOCAB, width, generator=draw)
        self.qkv = torch.randn((HEADS + 2 * KV_HEADS) * HEAD_DIM, width, generator=draw) / width**0.5
        self.out = torch.randn(VOCAB, width, generator=draw) * 0.5
        angles = torch.arange(MAX_LEN)[:, None] / 100.0 ** (torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
        self.rotation = angles.cos().contiguous(), angles.sin().contiguous()

    def hidden_states(self, batch: DecoderBatch, caches: list[LayerCache]) -> torch.Tensor:
        qkv = batch.embedded(self.embedding) @ self.qkv.T
        none = torch.empty(0)
        query = rope_and_cache(
            qkv, HEADS, KV_HEADS, batch.positions, batch.slots, self.rotation, (none, none, 1e-5), caches[0]
        )
        return paged_attention(query, caches[0], batch.attention, HEAD_DIM**-0.5, 0, self.dtype).flatten(1)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.out.T

    logits = head

    def next_token(self, tokens: list[int]) -> int:
        """The likeliest token after a whole sequence."""
        return int(self.next_logits(tokens).argmax())

    def next_logits(self, tokens: list[int]) -> torch.Tensor:
        """Logits [vocab] after a whole sequence."""
        blocks = -(-len(tokens) // BLOCK)
        shape = (blocks, BLOCK, KV_HEADS, HEAD_DIM)
        cache = LayerCache(torch.zeros(shape), torch.zeros(shape), BLOCK)
        none = torch.empty(0)
        at = torch.arange(len(tokens))
        qkv = self.embedding[tokens] @ self.qkv.T
        query = rope_and_cache(qkv, HEADS, KV_HEADS, at, at, self.rotation, (none, none, 1e-5), cache)
        keys, values = (x.flatten(0, 1)[: len(tokens)].repeat_interleave(2, 1) for x in (cache.keys, cache.values))
        weights = (torch.einsum("hd,khd->hk", query[-1], keys) * HEAD_DIM**-0.5).softmax(-1)
        return torch.einsum("hk,khd->hd", weights, values).flatten() @ self.out.T


class Padded:
    """In place of captured graphs: the same padded steps, launched at once."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.shapes: list[StepShape] = []

    def run(self, shape: StepShape, numbers: torch.Tensor) -> Computed:
        self.shapes.append(shape)
        return self.step(shape, numbers)


@dataclass(frozen=True)
class Rig:
    core: GenerationCore
    shapes: list[StepShape]
    model: OneLayer


def rig(
    padded: bool, limits: Limits, monkeypatch: pytest.MonkeyPatch, cascade: bool = True, proposer: Any = None
) -> Rig:
    monkeypatch.setattr("engine.execute.cuda_runner.pinned", lambda tensor: tensor)
    monkeypatch.setattr(shared_blocks, "LEAST", 2)
    model: Any = OneLayer()
    runner = CudaModelRunner(
        model,
        limits.blocks,
        BLOCK,
        CPU,
        max_seqs=limits.max_seqs,
        max_len=MAX_LEN,
        enforce_eager=True,
        cascade=cascade,
        concurrent=False,
    )
    shape = (limits.blocks, BLOCK, KV_HEADS, HEAD_DIM)
    runner.caches = [LayerCache(torch.zeros(shape), torch.zeros(shape), BLOCK)]
    graphs = Padded(runner._step)
    if padded:
        runner._graphs = graphs  # type: ignore[assignment]
    known = GenerationModel(
        vocab_size=VOCAB,
        max_model_len=MAX_LEN,
        eos_ids=frozenset(),
        seed=0,
        costs=COSTS,
        embedding_size=HEADS * HEAD_DIM,
    )
    swapping = SwappingRunner(runner, limits.swap_slots) if limits.swap_slots else runner
    return Rig(GenerationCore(known, swapping, limits, None, proposer=proposer), graphs.shapes, model)


def run(
    core: GenerationCore, prompts: Sequence[list[int] | Input], params: list[SamplingParams], preempt_every: int = 0
) -> list[RequestOutput]:
    for i, (prompt, each) in enumerate(zip(prompts, params, strict=True)):
        core.add(str(i), prompt if isinstance(prompt, Input) else Input(prompt), each)
    done = []
    for step in itertools.count(1):
        if not core.unfinished:
            break
        done += core.step()
        if preempt_every and step % preempt_every == 0 and step < 12 and core.scheduler.running:
            core.scheduler.requests.preempt(core.scheduler.running[0])  # its step may be in flight
    done += core.step()
    core.scheduler.check()
    return sorted(done, key=lambda output: int(output.request_id))


LIMITS = Limits(max_tokens=2048, max_seqs=8, blocks=200, block_size=BLOCK)
GREEDY = {"temperature": 0.0, "ignore_eos": True}


def work(count: int, shared: int = 0) -> tuple[list[list[int]], list[SamplingParams]]:
    draw = random.Random(2)
    prefix = [draw.randrange(VOCAB) for _ in range(shared)]
    prompts = [prefix + [draw.randrange(VOCAB) for _ in range(draw.randint(1, 40))] for _ in range(count)]
    return prompts, [SamplingParams(max_tokens=draw.randint(1, 6), **GREEDY) for _ in range(count)]


@pytest.mark.parametrize("padded", [False, True], ids=["exact", "padded"])
@pytest.mark.parametrize(
    "limits",
    [
        LIMITS,
        replace(LIMITS, max_seqs=3),
        replace(LIMITS, max_tokens=24),
        replace(LIMITS, blocks=40),
        replace(LIMITS, prefix_caching=False),
    ],
    ids=["wide", "three", "chunks", "preempting", "uncached"],
)
def test_tokens_are_those_of_whole_sequences(padded: bool, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, params = work(8)
    made = rig(padded, limits, monkeypatch)
    outputs = run(made.core, prompts, params)
    for prompt, output, each in zip(prompts, outputs, params, strict=True):
        tokens = list(prompt)
        for token in output.outputs[0].token_ids:
            assert token == made.model.next_token(tokens)
            tokens.append(token)
        assert len(output.outputs[0].token_ids) == each.max_tokens
    if padded:
        assert {bool(shape.tiles) for shape in made.shapes} == {False, True}


@pytest.mark.parametrize("slots", [0, 100], ids=["recompute", "swap"])
def test_preempted_requests_go_on(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, params = work(8)
    made = rig(True, replace(LIMITS, prefix_caching=False, swap_slots=slots), monkeypatch)
    outputs = run(made.core, prompts, params, preempt_every=2)
    calm = run(rig(True, LIMITS, monkeypatch).core, prompts, params)
    assert [o.outputs for o in outputs] == [o.outputs for o in calm]
    stats = made.core.stats()
    assert stats.preemptions > 3
    assert (stats.recomputed_tokens > 0, stats.swapped_in > 0) == (not slots, bool(slots))


@pytest.mark.parametrize("limits", [LIMITS, replace(LIMITS, max_tokens=24)], ids=["wide", "chunks"])
def test_prompts_may_be_embeddings(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, params = work(8)
    prompts[3] = prompts[3][:1]  # computed as those that decode
    expected = run(rig(True, limits, monkeypatch).core, prompts, params)
    made = rig(True, limits, monkeypatch)
    mixed: list[list[int] | Input] = [
        Input([0] * len(ids), embeds=made.model.embedding[ids]) if i % 4 else ids for i, ids in enumerate(prompts)
    ]
    for _ in range(2):  # the second time by the prefix cache
        assert [o.outputs for o in run(made.core, mixed, params)] == [o.outputs for o in expected]
    assert made.shapes, "steps without such a prompt are captured"


@pytest.mark.parametrize("padded", [False, True], ids=["exact", "padded"])
def test_shared_blocks_change_nothing(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, params = work(6, shared=260)
    limits = replace(LIMITS, max_seqs=4)
    shared = rig(padded, limits, monkeypatch)
    alone = rig(padded, limits, monkeypatch, cascade=False)
    outputs = run(shared.core, prompts, params)
    assert [o.outputs for o in outputs] == [o.outputs for o in run(alone.core, prompts, params)]
    if padded:
        assert any(shape.shared for shape in shared.shapes)
        assert not any(shape.shared for shape in alone.shapes)


class Oracle:
    """Drafts what is known to come, with some wrong tokens; now and then nothing, so that steps run ahead between."""

    def __init__(self, outputs: list[RequestOutput]) -> None:
        self.tokens = [output.outputs[0].token_ids for output in outputs]
        self.draw = random.Random(9)
        self.right = 0

    def drafts(self, running: list[Request]) -> dict[Request, list[int]]:
        offered = {}
        for request in running:
            if request.pending or request.total - request.computed != 1 or self.draw.random() < 0.3:
                continue
            coming = self.tokens[request.index][len(request.output) :][: self.draw.randint(1, 5)]
            offered[request] = [(t + (self.draw.random() < 0.2)) % VOCAB for t in coming]
        return offered

    def waits(self, running: list[Request]) -> bool:
        return self.draw.random() < 0.5

    def learn(self, plan: StepPlan, accepted: dict[Request, int]) -> None:
        self.right += sum(accepted.values())


@pytest.fixture(scope="module")
def mixed() -> tuple[list[list[int]], list[SamplingParams], list[RequestOutput]]:
    """Prompts, parameters of every kind, and their outputs without drafts."""
    prompts, _ = work(6)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0}, {"temperature": 0.9, "top_k": 5, "logprobs": 1}, {"temperature": 0.0, "logprobs": 0},
        {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.3}, {"temperature": 0.5, "min_tokens": 5},
    ]  # fmt: skip
    params = [SamplingParams(max_tokens=6 + 2 * i, ignore_eos=True, seed=i, **kinds[i % 5]) for i in range(6)]
    with pytest.MonkeyPatch.context() as patch:
        return prompts, params, run(rig(True, LIMITS, patch).core, prompts, params)


@pytest.mark.parametrize(
    ("padded", "changes"),
    [
        (False, {}),
        (True, {}),
        (True, {"max_seqs": 2, "max_tokens": 24}),
        (True, {"blocks": 40, "prefix_caching": False, "swap_slots": 100}),
    ],
    ids=str,
)
def test_drafts_change_nothing(padded: bool, changes: dict[str, Any], mixed: Any, monkeypatch: Any) -> None:
    prompts, params, plain = mixed
    oracle = Oracle(plain)
    made = rig(padded, replace(LIMITS, **{"draft_room": 100, **changes}), monkeypatch, proposer=oracle)
    drafted = run(made.core, prompts, params, preempt_every=3 if "blocks" in changes else 0)
    for a, b in zip(plain, drafted, strict=True):
        assert a.outputs[0].token_ids == b.outputs[0].token_ids
        for mine, other in zip(a.outputs[0].logprobs or (), b.outputs[0].logprobs or (), strict=True):
            assert list(mine) == list(other)
            assert [one.logprob for one in mine.values()] == pytest.approx([one.logprob for one in other.values()])
    stats = made.core.stats()
    assert oracle.right == stats.accepted_tokens > 15
    assert stats.drafted_tokens > stats.accepted_tokens
    assert stats.output_tokens == sum(len(output.outputs[0].token_ids) for output in plain)
    assert (stats.preemptions > 0) == ("blocks" in changes)
    if padded and not changes:
        # Attention's work list has room for as many decoding sequences as may run; drafts have rows too.
        assert max(shape.rows for shape in made.shapes) > 16 >= row_bucket(LIMITS.max_seqs)


def drafting_rig(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A model that drafts for itself, over the same blocks."""
    made, other = rig(True, limits, monkeypatch), rig(True, limits, monkeypatch)
    runners: Any = (made.core.runner, other.core.runner)
    made.core.runner = DraftModelRunner(*runners)
    made.core._proposer = Proposer(SpeculativeConfig(model="any", num_speculative_tokens=3))
    return made


def test_a_draft_model_over_the_same_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model drafts for itself: every draft is right only if both caches hold the right keys."""
    prompts, _ = work(4)
    params = [SamplingParams(max_tokens=9, temperature=0.6 * (i % 2), seed=i, ignore_eos=True) for i in range(4)]
    plain = run(rig(True, LIMITS, monkeypatch).core, prompts, params)
    limits = replace(LIMITS, draft_room=100)
    made = drafting_rig(limits, monkeypatch)
    assert [o.outputs for o in run(made.core, prompts, params)] == [o.outputs for o in plain]
    stats = made.core.stats()
    assert stats.accepted_tokens == stats.drafted_tokens > 15


def test_mixed_sampling_and_logprobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows keep their own parameters while others come and go; log-probabilities are those of the logits."""
    prompts, _ = work(6)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "logprobs": 2}, {"temperature": 0.9, "top_k": 5}, {"temperature": 1.1, "logprobs": 0},
        {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.3}, {"temperature": 0.0, "min_tokens": 2},
    ]  # fmt: skip
    params = [SamplingParams(max_tokens=2 + i % 6, ignore_eos=True, seed=i, **kinds[i % 5]) for i in range(6)]
    together = run(rig(True, LIMITS, monkeypatch).core, prompts, params)
    for i, output in enumerate(together):
        (alone,) = run(rig(False, replace(LIMITS, max_seqs=1), monkeypatch).core, [prompts[i]], [params[i]])
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
        if params[i].logprobs is None:
            assert output.outputs[0].logprobs is None
            continue
        scored = output.outputs[0].logprobs
        assert scored is not None
        for step, token in zip(scored, output.outputs[0].token_ids, strict=True):
            assert step[token].logprob <= 0
            if params[i].logprobs == 2:  # greedy: the drawn token is the likeliest of the two
                assert len(step) == 2
                assert step[token].rank == 1
