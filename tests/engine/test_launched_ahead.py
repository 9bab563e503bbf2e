"""Steps launched before the last one's tokens are known, as on CUDA, on a runner that the CPU can imitate."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from engine import LLM, RequestOutput, SamplingParams
from engine.execute.logits_processing import Masks
from engine.execute.model_runner import Done, ModelRunner
from engine.generation import GenerationCore
from engine.schedule.plan import StepPlan
from engine.schedule.request import PENDING, Request
from tests.engine.ask import outputs

Limited = Callable[..., LLM]


class AheadRunner:
    """Computes at once, but keeps the drawn tokens until asked, and feeds the next step from its own memory."""

    def __init__(self, inner: ModelRunner) -> None:
        self.inner = inner
        self.drawn: dict[Request, int] = {}
        self.fed = 0

    def launch(self, plan: StepPlan, masks: Masks | None = None) -> Done:
        waiting = [part.request for part in plan.slices if part.request.pending]
        for request in waiting:  # what a device would read from its own memory
            request.output[-1] = self.drawn[request]
        done = self.inner.launch(plan, masks)
        for request in waiting:
            request.output[-1] = PENDING
        self.fed += len(waiting)
        self.drawn |= done.value.tokens
        return done

    def runs_ahead(self, plan: StepPlan) -> bool:
        return not any(p.request.params.has_penalties or p.request.params.logprobs is not None for p in plan.slices)

    def numerics(self) -> dict[str, str]:
        return {}


def ahead(llm: LLM) -> tuple[LLM, AheadRunner]:
    core: Any = llm._open.core
    core.runner = AheadRunner(core.runner)
    return llm, core.runner


def requests(tokenizer: Any, articles: list[str], count: int = 25) -> tuple[list[list[int]], list[SamplingParams]]:
    """Requests that end by length, end of sequence, stop ids and stop strings, some of them sampled, some n=2."""
    draw = random.Random(11)
    prompts = [tokenizer(draw.choice(articles))["input_ids"][: draw.randint(3, 90)] for _ in range(count)]
    common = [tokenizer(text)["input_ids"][0] for text in (" the", " of", " a")]
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.0, "stop": [" the", "."]},
        {"temperature": 0.8, "top_p": 0.9, "stop_token_ids": common},
        {"temperature": 1.0, "n": 2},
        {"temperature": 0.0, "stop_token_ids": common},
    ]
    return prompts, [SamplingParams(max_tokens=draw.randint(1, 16), seed=i, **kinds[i % 5]) for i in range(count)]


def essence(results: list[RequestOutput]) -> list[Any]:
    return [[(c.text, tuple(c.token_ids), c.finish_reason, c.stop_reason) for c in o.outputs] for o in results]


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_seqs": 3},
        {"max_tokens": 16},
        {"blocks": 14, "block_size": 8, "admission_control": False},
        {"blocks": 14, "block_size": 8, "admission_control": False, "swap_slots": 60},
        {"prefix_caching": False},
    ],
    ids=str,
)
def test_nothing_changes(smol: LLM, limited: Limited, articles: list[str], limits: dict[str, Any]) -> None:
    prompts, params = requests(smol.get_tokenizer(), articles)
    expected = outputs(limited(smol), prompts, params)
    llm, runner = ahead(limited(smol, **limits))
    assert essence(outputs(llm, prompts, params)) == essence(expected)
    assert runner.fed > 60, "steps were launched ahead"
    core = llm._open.core
    assert isinstance(core, GenerationCore)
    assert core.scheduler.kv.pool.held == 0
    core.scheduler.check()
    if "blocks" in limits:
        stats = llm.stats()
        assert stats.preemptions > 0
        assert (stats.swapped_out > 0, stats.recomputed_tokens > 0) == (
            ("swap_slots" in limits),
            ("swap_slots" not in limits),
        )


def test_counts_and_reasons_are_those_of_the_requests(smol: LLM, limited: Limited, articles: list[str]) -> None:
    prompts, params = requests(smol.get_tokenizer(), articles)
    llm, _ = ahead(limited(smol))
    results = outputs(llm, prompts, params)
    stats = llm.stats()
    assert stats.output_tokens == sum(len(c.token_ids) for o in results for c in o.outputs)
    assert stats.finished_requests == sum(len(o.outputs) for o in results)
    assert {c.finish_reason for o in results for c in o.outputs} == {"stop", "length"}
    assert all(PENDING not in c.token_ids for o in results for c in o.outputs)


def test_requests_whose_tokens_the_host_needs_wait_for_them(smol: LLM, limited: Limited, articles: list[str]) -> None:
    prompts, _ = requests(smol.get_tokenizer(), articles, 12)
    params = [
        SamplingParams(temperature=0, max_tokens=8, repetition_penalty=1.2 if i % 3 == 0 else 1.0) for i in range(12)
    ]
    llm, _ = ahead(limited(smol))
    assert essence(outputs(llm, prompts, params)) == essence(outputs(limited(smol), prompts, params))


def test_closing_a_stream_drops_what_is_launched(smol: LLM, limited: Limited, articles: list[str]) -> None:
    prompts, params = requests(smol.get_tokenizer(), articles)
    llm, _ = ahead(limited(smol))
    stream = llm.stream(prompts, params)
    first = next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    assert first.error is None
    core = llm._open.core
    assert isinstance(core, GenerationCore)
    assert core.unfinished == 0
    assert core.scheduler.kv.pool.held == 0
    again = outputs(llm, prompts, params)
    assert len(again) == len(prompts)
