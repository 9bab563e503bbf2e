"""Chat, streams, engine options and embeddings of the LLM class, on the real models."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import LLM, ParameterError, PoolingParams, SamplingParams
from engine.text.inputs import InputError
from tests.engine.ask import PROMPT, TINY, greedy, outputs

# Chat


def test_chat_renders_the_template(smol: LLM) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
    (output,) = smol.chat(messages, greedy(max_tokens=1), use_tqdm=False)
    text = smol.get_tokenizer().decode(output.prompt_token_ids)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    )
    several = smol.chat([messages, messages[1:]], greedy(max_tokens=1), use_tqdm=False)
    assert several[0].prompt_token_ids == output.prompt_token_ids != several[1].prompt_token_ids


def test_chat_options_count(smol: LLM) -> None:
    def rendered(messages: Any, **options: Any) -> str:
        (output,) = smol.chat(messages, greedy(max_tokens=1), use_tqdm=False, **options)
        assert output.error is None, output.error
        text: str = smol.get_tokenizer().decode(output.prompt_token_ids)
        return text

    user = {"role": "user", "content": "Hi"}
    assert not rendered([user], add_generation_prompt=False).endswith("assistant\n")
    opened = [user, {"role": "assistant", "content": "Well,"}]
    assert rendered(opened, add_generation_prompt=False, continue_final_message=True).endswith("Well,")
    template = "{{ messages[0].content }}{{ extra }}"
    assert rendered([user], chat_template=template, chat_template_kwargs={"extra": "!"}) == "Hi!"


def test_bad_conversation_becomes_an_error(smol: LLM) -> None:
    good = [{"role": "user", "content": "Hi"}]
    bad: Any = [{"content": "no role"}]
    results = smol.chat([good, bad], greedy(max_tokens=1), use_tqdm=False)
    assert results[0].error is None
    assert "role" in (results[1].error or "")


# Streams


def test_endless_stream_holds_a_window_and_frees_it(smol: LLM, limited: Callable[..., LLM]) -> None:
    llm = limited(smol, max_seqs=4)
    pulled = 0

    def prompts() -> Iterator[str]:
        nonlocal pulled
        for pulled in itertools.count(1):
            yield f"Number {pulled} is"

    stream = llm.stream(prompts(), greedy(max_tokens=2, ignore_eos=True))
    ids = [next(stream).request_id for _ in range(30)]
    assert len(set(ids)) == 30
    assert pulled <= 30 + 2 * 2 * 4
    stats = llm.stats()
    assert stats.running <= 4
    assert stats.waiting > 0
    stream.close()  # type: ignore[attr-defined]
    stats = llm.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)
    assert outputs(llm, PROMPT, greedy(max_tokens=1))[0].error is None, "the engine is free again"


def test_outputs_come_as_they_finish(smol: LLM) -> None:
    params = [greedy(max_tokens=count, ignore_eos=True) for count in (9, 1, 5)]
    assert [o.request_id for o in smol.stream([PROMPT] * 3, params)] == ["1", "2", "0"]
    assert [o.request_id for o in outputs(smol, [PROMPT] * 3, params)] == ["0", "1", "2"]


def test_second_stream_is_refused_while_one_is_open(smol: LLM) -> None:
    stream = smol.stream(itertools.repeat(PROMPT), greedy(max_tokens=1))
    next(stream)
    with pytest.raises(RuntimeError, match="another stream"):
        outputs(smol, PROMPT, greedy())
    stream.close()  # type: ignore[attr-defined]


def test_error_in_the_source_frees_everything(smol: LLM) -> None:
    def prompts() -> Iterator[str]:
        yield PROMPT
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(smol.stream(prompts(), greedy(max_tokens=3)))
    assert smol.stats().kv_blocks_used == 0


def test_failed_step_leaves_no_block_in_the_prefix_cache_that_it_did_not_write(
    smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = limited(smol)
    prompt = {"prompt_token_ids": prompts[25]}
    expected = outputs(llm, prompt, greedy())[0].outputs[0].token_ids
    llm.reset_prefix_cache()

    def fail(*_: Any) -> Any:
        raise MemoryError("no room for the step")

    with monkeypatch.context() as patch:
        patch.setattr(llm._open.core.runner, "launch", fail)  # type: ignore[union-attr]
        with pytest.raises(MemoryError):
            outputs(llm, prompt, greedy())
    (again,) = outputs(llm, prompt, greedy())
    assert (again.outputs[0].token_ids, again.num_cached_tokens) == (expected, 0)


# Engine


def test_generation_config_gives_defaults_only_without_parameters(tmp_path: Path) -> None:
    config = {**TINY, "eos_token_id": [1, 999]}
    defaults = {"temperature": 0.6, "top_p": 0.9, "top_k": None, "eos_token_id": [5, 6], "max_length": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps(defaults))
    with LLM(str(tmp_path), load_format="dummy", skip_tokenizer_init=True) as llm:
        params = llm.get_default_sampling_params()
        assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.9, 0)
        prompt: list[Any] = [{"prompt_token_ids": [3, 4]}]
        ends = set()
        (least,) = outputs(llm, prompt, SamplingParams(max_tokens=9, min_tokens=9))
        assert len(least.outputs[0].token_ids) == 9, "an end id beyond the vocabulary is no obstacle"
        for _ in range(40):
            (output,) = outputs(llm, prompt, SamplingParams(max_tokens=200))
            (one,) = output.outputs
            assert not {1, 5, 6} & {*one.token_ids[:-1]}
            ends |= {one.token_ids[-1]} if one.finish_reason == "stop" else set()
        assert {5, 6} & ends
        assert ends <= {1, 5, 6}, "the end ids of both files end a text"


def test_priority_policy_orders_the_outputs(smol: LLM, limited: Callable[..., LLM]) -> None:
    llm = limited(smol, max_seqs=1, policy="priority")
    order = [
        output.request_id
        for output in llm.stream([{"prompt": PROMPT, "priority": p} for p in (3, 1)], greedy(max_tokens=1))
    ]
    assert order == ["1", "0"]
    with pytest.raises(ParameterError, match=r"priority=.*scheduling_policy"):
        smol.generate([PROMPT], greedy(), priority=[1], use_tqdm=False)


def test_cache_salt_and_reset(smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]) -> None:
    llm = limited(smol)

    def cached(**fields: Any) -> int:
        prompt = {"prompt_token_ids": prompts[18], **fields}
        return outputs(llm, prompt, greedy(max_tokens=1))[0].num_cached_tokens

    assert [cached(), cached(), cached(cache_salt="a"), cached(cache_salt="a")] == [0, 64, 0, 64]
    llm.reset_prefix_cache()
    assert cached() == 0


def test_stats_add_up(smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]) -> None:
    llm = limited(smol)
    items = [{"prompt_token_ids": prompt} for prompt in prompts[:6]]
    results = outputs(llm, items, greedy(max_tokens=5, ignore_eos=True))
    stats = llm.stats()
    lengths = sum(len(prompt) for prompt in prompts[:6])
    assert (stats.prompt_tokens, stats.output_tokens, stats.finished_requests) == (lengths, 30, 6)
    assert stats.computed_tokens == lengths + 6 * 4
    assert (stats.peak_running, stats.running, stats.waiting) == (6, 0, 0)
    assert stats.busy_seconds > 0
    for result in results:
        times = result.metrics
        assert times is not None
        assert times.scheduled is not None
        assert times.first_token is not None
        assert times.last_token is not None
        assert times.arrival <= times.scheduled <= times.first_token < times.last_token


# Embeddings


def test_embedding_options(minilm: LLM) -> None:
    text = "The engine makes a strange noise when it is cold."
    raw, unit, cut, both = (
        minilm.embed(text, params, use_tqdm=False)[0].outputs.embedding
        for params in (
            PoolingParams(normalize=False),
            None,
            PoolingParams(dimensions=64),
            PoolingParams(dimensions=64, normalize=False),
        )
    )
    length = sum(x * x for x in raw) ** 0.5
    assert abs(length - 1) > 1e-3
    assert unit == pytest.approx([x / length for x in raw], abs=1e-6)
    assert (len(unit), len(cut)) == (384, 64)
    assert list(both) == list(raw[:64])
    assert sum(x * x for x in cut) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ("word " * 300, None, "302 tokens.*max_model_len=256"),
        ({"prompt_token_ids": []}, None, "empty"),
        ("a", PoolingParams(dimensions=385), "dimensions=385.*384"),
        ({"prompt_token_ids": [30522]}, None, "30522 is not in the vocabulary"),
    ],
    ids=["long", "empty", "dimensions", "vocabulary"],
)
def test_bad_embedding_input(minilm: LLM, prompt: Any, params: PoolingParams | None, message: str) -> None:
    results = minilm.embed(["good", prompt], [PoolingParams(), params or PoolingParams()], use_tqdm=False)
    assert results[0].error is None
    assert re.search(message, results[1].error or ""), results[1].error
    assert not results[1].outputs.embedding
    with pytest.raises(InputError, match=message):
        minilm.embed(["good", prompt], [PoolingParams(), params or PoolingParams()], use_tqdm=False, on_error="raise")
