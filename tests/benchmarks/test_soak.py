"""A small soak on the CPU, and that it sees what it is there to see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_workloads import write_model
from benchmarks.soak import MIB, Plan, Soak
from benchmarks.soak_traffic import Traffic
from engine.args import EngineArgs
from engine.build import build
from engine.generation import GenerationCore
from engine.model.decoder import Decoder
from engine.schedule.block_pool import BlockPool
from tests.engine.test_launched_ahead import AheadRunner

LENGTH, VOCAB = 512, 2000
PLAN = Plan(requests=300, rounds=3, warm=2, preempt_every=12, check_every=5, forget_every=90, again=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(
        "llama1b", tmp_path_factory.mktemp("models"), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=VOCAB,
    )  # fmt: skip


def soak(model: Path, ahead: bool = False, plan: Plan = PLAN) -> Soak:
    args = EngineArgs(
        model=str(model), load_format="dummy", skip_tokenizer_init=True, device="cpu", dtype="float32",
        max_model_len=LENGTH, max_num_seqs=24, kv_cache_memory_bytes=MIB,
    )  # fmt: skip
    core = build(args).core
    assert isinstance(core, GenerationCore)
    if ahead:
        runner: Any = AheadRunner(core.runner)  # type: ignore[arg-type]
        core.runner = runner
    return Soak(core, Traffic(VOCAB, LENGTH, prompt=25, output=10, stretch=40), plan, lambda line: None)


@pytest.mark.parametrize("ahead", [False, True], ids=["in step", "ahead"])
def test_nothing_leaks_and_nothing_is_lost(model: Path, ahead: bool) -> None:
    run = soak(model, ahead)
    growth = run.run()
    assert run.account.settled == PLAN.requests
    assert all(run.account.counts.values()), run.account.counts
    assert {"abort", "length", "stop"} == set(run.account.reasons)
    assert run.core.stats().preemptions >= run.preempted > 10
    assert len(run.done) == PLAN.again
    assert growth["objects"] < 3000


def test_a_leaked_block_is_seen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = soak(model)
    release = BlockPool.release
    lost: list[int] = []

    def leaky(pool: BlockPool, blocks: Sequence[int]) -> None:
        if run.steps > 40 and blocks and not lost:
            lost.append(blocks[0])
            blocks = blocks[1:]
        release(pool, blocks)

    monkeypatch.setattr(BlockPool, "release", leaky)
    with pytest.raises(AssertionError, match="reference counts differ"):
        run.run()


def test_an_answer_given_twice_or_never_is_seen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change, message in ((lambda found: found * 2, "not live"), (lambda found: found[1:], "lost: requests")):
        run = soak(model, plan=Plan(requests=20, rounds=1, warm=1, abort_share=0))
        step = run.core.step
        monkeypatch.setattr(run.core, "step", lambda step=step, change=change: change(step()))
        with pytest.raises(AssertionError, match=message):
            run.run()


def test_a_wrong_token_is_seen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose answers depend on the crowd is found out by the requests that run again alone."""
    run = soak(model)
    decoder = run.core.runner.model  # type: ignore[attr-defined]
    assert isinstance(decoder, Decoder)
    head: Any = decoder.head
    monkeypatch.setattr(decoder, "head", lambda hidden: head(hidden) * (1 if len(hidden) < 4 else -1))
    with pytest.raises(AssertionError, match="gives others when it runs alone"):
        run.run()
