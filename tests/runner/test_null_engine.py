"""The null engine keeps the promises that the real engine makes to the runner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.outputs import EmbeddingRequestOutput, RequestOutput
from engine.params import PoolingParams, Prompt, SamplingParams
from runner.null_engine import NullLLM


def test_prompts_are_pulled_within_the_window() -> None:
    pulled = 0

    def prompts() -> Iterator[str]:
        nonlocal pulled
        while True:  # endless
            pulled += 1
            yield f"prompt {pulled}"

    stream = NullLLM(max_num_seqs=8).stream(prompts(), SamplingParams(max_tokens=20))
    for taken in range(1, 100):
        next(stream)
        assert pulled <= taken + 8


def test_outputs_depend_on_the_prompt_alone() -> None:
    prompts = [f"prompt {n}" for n in range(50)]
    params = SamplingParams(max_tokens=30)

    def texts(max_num_seqs: int) -> dict[str, str]:
        outputs = list(NullLLM(max_num_seqs=max_num_seqs).stream(prompts, params))
        assert len({output.request_id for output in outputs}) == 50
        found = {}
        for output in outputs:
            assert isinstance(output, RequestOutput)
            found[output.request_id] = output.outputs[0].text
        return found

    assert texts(1) == texts(3) == texts(100)


def test_each_prompt_its_parameters_and_its_errors() -> None:
    prompts: list[Prompt] = [
        [1, 2, 3],
        {"prompt_token_ids": [4]},
        {"messages": [{"role": "user", "content": "x"}]},
        "",
        "long" * 50,
    ]
    params = [SamplingParams(max_tokens=n + 1, ignore_eos=True) for n in range(5)]
    engine = NullLLM(max_model_len=20)
    outputs = {output.request_id: output for output in engine.stream(prompts, params)}
    lengths = {key: len(one.outputs[0].token_ids) for key, one in outputs.items()
               if isinstance(one, RequestOutput) and not one.error}  # fmt: skip
    assert lengths == {"0": 1, "1": 2, "2": 3}
    assert "empty" in str(outputs["3"].error)
    assert "max_model_len is 20" in str(outputs["4"].error)
    assert engine.stats().output_tokens == 6
    assert engine.stats().finished_requests == 3


def test_embeddings_and_declared_failure() -> None:
    engine = NullLLM(fail_after=2)
    stream = engine.stream(["a", "b", "c"], PoolingParams())
    first = next(stream)
    assert isinstance(first, EmbeddingRequestOutput)
    assert len(first.outputs.embedding) == 8
    assert first.metrics is not None
    assert first.metrics.first_token is None
    assert first.metrics.last_token is not None
    next(stream)
    with pytest.raises(RuntimeError, match="after 2 outputs"):
        next(stream)
