"""What ``generate`` and its siblings take: lazy prompts, mappings, truncation, options that are refused."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tqdm import tqdm

from engine import LLM, PoolingParams, UnsupportedOptionError
from engine.offline import ReadAhead
from engine.params import BeamSearchParams
from engine.text.inputs import Input, InputError
from tests.engine.ask import PROMPT, greedy, outputs

Limited = Callable[..., LLM]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("galley-tokenize")]


# Lazy prompts


def test_generate_pulls_lazily_and_holds_a_window(smol: LLM, limited: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 prompts, those that are pulled and not finished stay few; stopped after 300 outputs for time."""
    llm = limited(smol, max_seqs=4)
    pulled = most = 0
    finished = 0

    def prompts() -> Iterator[str]:
        nonlocal pulled, most
        for pulled in range(1, 100_001):
            most = max(most, pulled - finished)
            yield f"Number {pulled}"

    class EnoughError(Exception):
        pass

    class Bar:
        def __init__(self, **options: Any) -> None:
            assert options["total"] is None

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, count: int = 1) -> None:
            nonlocal finished
            finished += count
            if finished == 300:
                raise EnoughError

    with pytest.raises(EnoughError):
        llm.generate(prompts(), greedy(max_tokens=1), use_tqdm=Bar)
    assert most <= 2 * 4 + 2 * 4, "the window, and two batches of half a window"
    assert llm.stats().waiting == llm.stats().running == 0
    assert not threads()


def test_generate_takes_any_iterable(smol: LLM) -> None:
    texts = ["One", "Two two", "Three three three"]
    expected = [o.outputs[0].token_ids for o in outputs(smol, texts, greedy(max_tokens=3))]
    for prompts in (iter(texts), (text for text in texts), tuple(texts), dict.fromkeys(texts)):
        found = smol.generate(
            prompts if not isinstance(prompts, dict) else prompts.keys(), greedy(max_tokens=3), use_tqdm=False
        )
        assert [o.outputs[0].token_ids for o in found] == expected
    assert smol.generate([], use_tqdm=False) == []
    with pytest.raises(ValueError, match="2 parameters for more prompts"):
        smol.generate(iter(texts), [greedy()] * 2, use_tqdm=False)
    with pytest.raises(ValueError, match="4 parameters for fewer prompts"):
        smol.generate(iter(texts), [greedy(max_tokens=1)] * 4, use_tqdm=False)


def test_tokenization_runs_beside_the_engine_in_order(
    smol: LLM, limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = limited(smol, max_seqs=4)
    names: set[str] = set()
    read = ReadAhead._read

    def spy(self: Any, jobs: Any) -> Any:
        names.add(threading.current_thread().name.split("_")[0])
        return read(self, jobs)

    monkeypatch.setattr(ReadAhead, "_read", spy)
    texts = [f"Item {i} is" for i in range(20)]
    expected = [smol.get_tokenizer()(text)["input_ids"] for text in texts]
    found = sorted(llm.stream(texts, greedy(max_tokens=2)), key=lambda output: int(output.request_id))
    assert [list(output.prompt_token_ids) for output in found] == expected
    assert names == {"MainThread", "galley-tokenize"}
    assert not threads()


def test_source_that_raises_loses_no_finished_output(smol: LLM, limited: Limited) -> None:
    llm = limited(smol, max_seqs=2)

    def prompts() -> Iterator[str]:
        yield from (f"Row {i}" for i in range(9))
        raise OSError("disk gone")

    stream = llm.stream(prompts(), greedy(max_tokens=2))
    found = []
    with pytest.raises(OSError, match="disk gone"):
        for output in stream:
            found.append(output)
    assert sorted(int(output.request_id) for output in found) == list(range(9))
    assert all(output.error is None for output in found)
    assert not threads()
    assert outputs(llm, PROMPT, greedy(max_tokens=1))[0].error is None


def test_closing_early_stops_the_thread(smol: LLM, limited: Limited) -> None:
    stream = limited(smol, max_seqs=2).stream((f"Row {i}" for i in itertools.count()), greedy(max_tokens=1))
    for _ in range(6):
        next(stream)
    assert threads()
    stream.close()  # type: ignore[attr-defined]
    assert not threads()


def test_callers_own_truncation_does_not_reach_the_engine(smol: LLM) -> None:
    tokenizer = smol.get_tokenizer()
    assert len(tokenizer("a b c d e f g h", truncation=True, max_length=3)["input_ids"]) == 3
    (output,) = outputs(smol, "a b c d e f g h", greedy(max_tokens=1))
    assert len(output.prompt_token_ids) == 8


# Truncation


def test_generation_keeps_the_prompts_last_tokens(smol: LLM) -> None:
    text = "The quick brown fox jumps over the lazy dog. The capital of France is"
    ids = smol.get_tokenizer()(text)["input_ids"]
    whole, cut, exact = outputs(
        smol, [text, text, {"prompt_token_ids": ids}], [greedy(), *[greedy(truncate_prompt_tokens=5)] * 2]
    )
    assert list(whole.prompt_token_ids) == ids
    assert list(cut.prompt_token_ids) == list(exact.prompt_token_ids) == ids[-5:]
    (alone,) = outputs(smol, {"prompt_token_ids": ids[-5:]}, greedy())
    assert cut.outputs[0].token_ids == alone.outputs[0].token_ids
    (longer,) = outputs(smol, text, greedy(truncate_prompt_tokens=500))
    assert list(longer.prompt_token_ids) == ids


def test_minus_one_keeps_what_the_model_can_take() -> None:
    with LLM("smollm2-135m-instruct", load_format="dummy", max_model_len=32) as llm:
        ids = list(range(3, 103))
        kept, refused = outputs(llm, [{"prompt_token_ids": ids}] * 2, [greedy(truncate_prompt_tokens=-1), greedy()])
        assert list(kept.prompt_token_ids) == ids[-31:]
        assert len(kept.outputs[0].token_ids) == 1
        assert "100 tokens; max_model_len=32" in (refused.error or "")


def test_embeddings_keep_the_tokenizers_side_and_special_tokens(minilm: LLM) -> None:
    text = "one two three four five six seven eight"
    tokenizer = minilm.get_tokenizer()
    for keep in (3, 6, 100, -1):
        (output,) = minilm.embed(text, PoolingParams(truncate_prompt_tokens=keep), use_tqdm=False)
        expected = tokenizer(text, truncation=True, max_length=256 if keep == -1 else keep)["input_ids"]
        assert list(output.prompt_token_ids) == expected
    (long,) = minilm.embed("word " * 400, PoolingParams(truncate_prompt_tokens=-1), use_tqdm=False)
    assert len(long.prompt_token_ids) == 256
    assert (long.prompt_token_ids[0], long.prompt_token_ids[-1]) == (101, 102)
    (none,) = minilm.embed(text, PoolingParams(truncate_prompt_tokens=2), use_tqdm=False)
    assert "truncate_prompt_tokens=2 leaves no room" in (none.error or "")


def test_truncated_keeps_both_ends() -> None:
    prompt = Input([1, 10, 11, 12, 13, 2], ends=(1, 1))
    assert prompt.truncated(4).token_ids == [1, 12, 13, 2]
    assert prompt.truncated(4, "right").token_ids == [1, 10, 11, 2]
    assert Input([1, 10, 11], ends=(1, 0)).truncated(2).token_ids == [1, 11]
    assert prompt.truncated(6) is prompt
    with pytest.raises(InputError, match="2 special tokens"):
        prompt.truncated(2)


# Options


@pytest.mark.parametrize("key", ["multi_modal_data", "multi_modal_uuids", "mm_processor_kwargs", "encoder_prompt"])
def test_prompt_options_that_are_refused_are_named(smol: LLM, key: str) -> None:
    good, bad = outputs(smol, [{"prompt": "a", key: None}, {"prompt": "a", key: {"image": 1}}], greedy(max_tokens=1))
    assert good.error is None
    assert f"prompt key '{key}' is not supported: " in (bad.error or "")


def test_chat_options_need_messages(smol: LLM) -> None:
    (output,) = outputs(smol, [{"prompt": "a", "tools": []}], greedy(max_tokens=1))
    assert output.error == "prompt key 'tools' goes with messages only"


def test_lora_is_refused_by_every_method(smol: LLM, minilm: LLM) -> None:
    for call in (
        lambda: smol.generate("a", lora_request="x", use_tqdm=False),
        lambda: smol.chat([{"role": "user", "content": "a"}], lora_request="x", use_tqdm=False),
        lambda: smol.beam_search(["a"], BeamSearchParams(beam_width=1, max_tokens=1), lora_request="x"),
        lambda: minilm.embed("a", lora_request="x", use_tqdm=False),
    ):
        with pytest.raises(UnsupportedOptionError, match="lora_request is not supported yet"):
            call()
    assert issubclass(UnsupportedOptionError, NotImplementedError)


def test_priority_is_one_for_all_or_one_each(smol: LLM, limited: Limited) -> None:
    from dataclasses import replace

    llm = limited(smol, max_seqs=1, policy="priority")
    llm.args = replace(llm.args, scheduling_policy="priority")
    order: list[str] = []
    llm._meter.observe = lambda output: order.append(output.request_id)  # type: ignore[method-assign]
    try:
        llm.generate([PROMPT] * 3, greedy(max_tokens=1), priority=[3, 1, 2], use_tqdm=False)
        assert order == ["1", "2", "0"]
        order.clear()
        llm.generate([PROMPT] * 3, greedy(max_tokens=1), priority=7, use_tqdm=False)
        assert order == ["0", "1", "2"]
        with pytest.raises(ValueError, match="2 priorities for 3 prompts"):
            llm.generate([PROMPT] * 3, greedy(max_tokens=1), priority=[3, 1], use_tqdm=False)
    finally:
        del llm._meter.observe  # type: ignore[method-assign]


def test_progress_bar_may_be_the_callers(smol: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[dict[str, Any]] = []

    def bar(**options: Any) -> Any:
        seen.append(options)
        return tqdm(**options, disable=True)

    smol.generate(["a", "b"], greedy(max_tokens=1), use_tqdm=bar)
    assert seen[0]["total"] == 2
    smol.generate("a", greedy(max_tokens=1), use_tqdm=False)
    assert not capsys.readouterr().err


# Pooling tasks


def test_encode_embeds_and_other_tasks_are_refused(smol: LLM, minilm: LLM) -> None:
    texts = ["a cat", "word " * 500]
    vectors = minilm.embed(texts, use_tqdm=False)
    encoded = minilm.encode(texts, use_tqdm=False, pooling_task="embed")
    assert encoded[0].outputs.data.tolist() == pytest.approx(vectors[0].outputs.embedding)
    assert encoded[0].prompt_token_ids == vectors[0].prompt_token_ids
    assert encoded[1].error == vectors[1].error is not None
    for call in (
        lambda llm: llm.classify("a"),
        lambda llm: llm.score("a", "b"),
        lambda llm: llm.reward("a"),
        lambda llm: llm.encode("a", pooling_task="classify"),
    ):
        with pytest.raises(TypeError, match=r"cannot do .*; it offers generate\(\) and chat\(\)"):
            call(smol)
        with pytest.raises(TypeError, match=r"cannot do .*; it offers embed\(\) and encode"):
            call(minilm)


def test_use_activation_is_normalize(minilm: LLM) -> None:
    raw, unit = (
        minilm.embed("a cat", PoolingParams(use_activation=on), use_tqdm=False)[0].outputs.embedding
        for on in (False, True)
    )
    assert sum(x * x for x in unit) == pytest.approx(1)
    assert abs(sum(x * x for x in raw) - 1) > 1e-3
