"""The LLM class on the real models: every sampling parameter counts, streams stay bounded, bad input is named."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import LLM, CompletionOutput, ParameterError, PoolingParams, RequestOutput, SamplingParams
from engine.model.files import ModelNotFoundError
from engine.text.inputs import InputError

SMOLLM = "smollm2-135m-instruct"
PROMPT = "The capital of France is"
LIST = "Count: one, two, three, four, five, six,"


def greedy(**fields: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 0, "max_tokens": 12} | fields))


def outputs(llm: LLM, prompts: Any, params: Any) -> list[RequestOutput]:
    return llm.generate(prompts, params, use_tqdm=False)


def complete(llm: LLM, prompt: Any = LIST, **fields: Any) -> CompletionOutput:
    (output,) = outputs(llm, prompt, greedy(**fields))
    assert output.error is None
    return output.outputs[0]


@pytest.fixture(scope="module")
def plain(smol: LLM) -> CompletionOutput:
    """What LIST goes on with, greedily and without a stop."""
    return complete(smol, ignore_eos=True)


# Lengths and stops


def test_max_tokens_and_its_finish_reason(smol: LLM, plain: CompletionOutput) -> None:
    short = complete(smol, max_tokens=3)
    assert short.token_ids == plain.token_ids[:3]
    assert (short.finish_reason, short.stop_reason) == ("length", None)
    assert SamplingParams().max_tokens == 16


def test_max_tokens_none_runs_to_the_models_end(smol: LLM) -> None:
    short = copy.copy(smol)
    engine = smol._engine
    assert engine is not None
    core = copy.copy(engine.core)
    core.model = replace(core.model, max_model_len=40)  # type: ignore[union-attr]
    short._engine = replace(engine, core=core)
    one = complete(short, {"prompt_token_ids": [1] * 30}, max_tokens=None, ignore_eos=True)
    assert (len(one.token_ids), one.finish_reason) == (10, "length")


def test_end_of_sequence_stops_and_stays_out_of_the_text(smol: LLM) -> None:
    messages = [{"role": "user", "content": "Answer with one word: what is the capital of France?"}]
    (ended,) = smol.chat(messages, greedy(max_tokens=40), use_tqdm=False)
    one = ended.outputs[0]
    assert (one.finish_reason, one.stop_reason) == ("stop", None)
    assert one.token_ids[-1] == 2
    assert "Paris" in one.text
    assert "<|im_end|>" not in one.text
    ids = {"prompt_token_ids": ended.prompt_token_ids}
    more = complete(smol, ids, max_tokens=len(one.token_ids) + 2, ignore_eos=True)
    assert more.token_ids[: len(one.token_ids)] == one.token_ids
    assert more.finish_reason == "length"
    least = complete(smol, ids, max_tokens=40, min_tokens=len(one.token_ids) + 2)
    assert len(least.token_ids) >= len(one.token_ids) + 2
    assert 2 not in least.token_ids[: len(one.token_ids) + 2], "end ids are masked until then"
    kept = complete(smol, ids, max_tokens=40, include_stop_str_in_output=True, skip_special_tokens=False)
    assert kept.text == one.text + "<|im_end|>"


def test_special_tokens_are_skipped_only_where_asked(smol: LLM) -> None:
    """With ignore_eos the end token stands inside the text."""
    messages = [{"role": "user", "content": "Answer with one word: what is the capital of France?"}]
    texts = [
        smol.chat(messages, greedy(max_tokens=24, ignore_eos=True, skip_special_tokens=skip), use_tqdm=False)[0]
        .outputs[0]
        .text
        for skip in (True, False)
    ]
    assert "<|im_end|>" not in texts[0]
    assert "<|im_end|>" in texts[1]


def test_stop_token_ids(smol: LLM, plain: CompletionOutput) -> None:
    stop = plain.token_ids[4]
    one = complete(smol, stop_token_ids=[stop])
    end = plain.token_ids.index(stop) + 1
    assert one.token_ids == plain.token_ids[:end]
    assert (one.finish_reason, one.stop_reason) == ("stop", stop)
    tokenizer = smol.get_tokenizer()
    assert one.text == tokenizer.decode(plain.token_ids[: end - 1])
    kept = complete(smol, stop_token_ids=[stop], include_stop_str_in_output=True)
    assert kept.text == tokenizer.decode(plain.token_ids[:end])


@pytest.mark.parametrize("include", [False, True])
def test_stop_string_across_tokens(smol: LLM, plain: CompletionOutput, include: bool) -> None:
    pieces = [smol.get_tokenizer().decode([token]) for token in plain.token_ids]
    stop = pieces[2][-1:] + pieces[3] + pieces[4][:1]
    at = plain.text.index(stop)
    one = complete(smol, stop=["never in the text", stop], include_stop_str_in_output=include)
    assert one.text == plain.text[: at + (len(stop) if include else 0)]
    assert (one.finish_reason, one.stop_reason) == ("stop", stop)
    assert one.token_ids == plain.token_ids[: len(one.token_ids)]
    assert len(one.token_ids) <= 5, "tokens that formed the stop string stay, no later ones come"


def test_stop_string_counts_only_beyond_min_tokens(smol: LLM, plain: CompletionOutput) -> None:
    stop = ","
    early, late = complete(smol, stop=stop), complete(smol, stop=stop, min_tokens=6)
    assert len(early.token_ids) < 6 < len(late.token_ids)
    assert late.text == plain.text[: len(late.text)]
    assert late.text.count(",") >= 1


def test_stop_string_in_the_last_token(smol: LLM, plain: CompletionOutput) -> None:
    """The end by length and the stop string come with the same token: the stop string counts."""
    last = smol.get_tokenizer().decode(plain.token_ids[:3])[-1]
    count = next(i for i in range(1, 13) if last in smol.get_tokenizer().decode(plain.token_ids[:i]))
    one = complete(smol, stop=last, max_tokens=count)
    assert (one.finish_reason, one.stop_reason) == ("stop", last)


def test_detokenize_off(smol: LLM, plain: CompletionOutput) -> None:
    one = complete(smol, detokenize=False, ignore_eos=True)
    assert (one.text, one.token_ids) == ("", plain.token_ids)


# Sampling


@pytest.mark.parametrize(
    "fields",
    [{"repetition_penalty": 2.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}],
    ids=str,
)
def test_penalties_change_a_repetitive_text(smol: LLM, fields: dict[str, float]) -> None:
    prompt = "a b a b a b a b"
    before, after = (complete(smol, prompt, ignore_eos=True, **extra) for extra in ({}, fields))
    assert len(set(after.token_ids)) > len(set(before.token_ids))


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 0.001}], ids=str)
def test_narrow_sampling_is_greedy(smol: LLM, plain: CompletionOutput, fields: dict[str, Any]) -> None:
    tight = {"temperature": 1.0, "seed": 3, "ignore_eos": True}
    assert complete(smol, **(tight | fields)).token_ids == plain.token_ids
    assert complete(smol, **tight).token_ids != plain.token_ids


def test_seed_decides_the_draw(smol: LLM) -> None:
    texts = [complete(smol, temperature=1.0, seed=seed).token_ids for seed in (1, 2, 1, -1, 2**64 + 5)]
    assert texts[0] == texts[2]
    assert len(set(texts)) == 4


def test_unseeded_run_repeats_in_a_new_engine(smol: LLM, limited: Callable[..., LLM]) -> None:
    params = SamplingParams(max_tokens=6)
    first, again = ([o.outputs[0].token_ids for o in outputs(limited(smol), [PROMPT] * 4, params)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 1, "equal prompts draw different noise"


def test_n_children_have_seeds_in_a_row_and_share_the_prompts_blocks(
    smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]
) -> None:
    prompt = {"prompt_token_ids": prompts[22]}  # 131 tokens
    llm = limited(smol)
    (output,) = outputs(llm, prompt, SamplingParams(n=4, seed=7, max_tokens=6))
    assert [one.index for one in output.outputs] == [0, 1, 2, 3]
    used = llm.stats()
    assert used.peak_kv_blocks <= 9 + 3, "eight full blocks are held once"
    assert used.computed_tokens < 131 + 4 * 6 + 3 * 16
    single = [complete(smol, prompt, temperature=1.0, seed=7 + i, max_tokens=6) for i in range(4)]
    assert [one.token_ids for one in output.outputs] == [one.token_ids for one in single]


def test_n_children_score_the_prompt_once(smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]) -> None:
    prompt, llm = {"prompt_token_ids": prompts[22]}, limited(smol)
    (output,) = outputs(llm, prompt, SamplingParams(n=3, seed=7, max_tokens=3, prompt_logprobs=0))
    assert len(output.prompt_logprobs or ()) == 131
    assert llm.stats().computed_tokens < 2 * 131


def test_n_children_end_each_in_their_own_time(smol: LLM) -> None:
    (output,) = outputs(smol, LIST, SamplingParams(n=6, seed=1, max_tokens=10, stop=",", logprobs=0))
    assert len({len(one.token_ids) for one in output.outputs}) > 1
    for one in output.outputs:
        assert "," not in one.text
        assert one.logprobs is not None
        assert len(one.logprobs) == len(one.token_ids)


# Log-probabilities


def test_logprobs_hold_the_top_and_the_sampled_token(smol: LLM) -> None:
    one = complete(smol, temperature=1.5, seed=11, logprobs=3, max_tokens=16)
    assert one.logprobs is not None
    total, outside = 0.0, 0
    for token, row in zip(one.token_ids, one.logprobs, strict=True):
        ranks = [entry.rank for entry in row.values()]
        values = [entry.logprob for entry in row.values()]
        assert ranks[:3] == [1, 2, 3]
        assert values == sorted(values, reverse=True)
        assert token in row
        outside += row[token].rank > 3
        assert len(row) == (4 if row[token].rank > 3 else 3)
        assert row[token].decoded_token == smol.get_tokenizer().decode([token])
        total += row[token].logprob
    assert outside > 0, "at this temperature some tokens are unlikely ones"
    assert one.cumulative_logprob == pytest.approx(total)


def test_logprobs_do_not_change_the_tokens_and_come_only_if_asked(smol: LLM, plain: CompletionOutput) -> None:
    scored = complete(smol, logprobs=2, ignore_eos=True)
    assert scored.token_ids == plain.token_ids
    assert (plain.logprobs, plain.cumulative_logprob) == (None, None)
    whole = complete(smol, logprobs=-1, max_tokens=1)
    assert whole.logprobs is not None
    assert len(whole.logprobs[0]) == 49152


def test_prompt_logprobs_whatever_is_cached_or_cut(
    smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]
) -> None:
    prompt, params = {"prompt_token_ids": prompts[20]}, greedy(prompt_logprobs=2, max_tokens=2)
    (whole,) = outputs(smol, prompt, params)
    assert whole.prompt_logprobs is not None
    assert whole.prompt_logprobs[0] is None
    assert len(whole.prompt_logprobs) == len(prompts[20]) == 98
    for token, row in zip(prompts[20][1:], whole.prompt_logprobs[1:], strict=True):
        assert row is not None
        assert token in row
    for limits in ({"max_tokens": 7}, {"max_tokens": 40}, {}):
        llm = limited(smol, **limits)
        outputs(llm, prompt, greedy(max_tokens=1))  # the prompt is in the cache now
        (again,) = outputs(llm, prompt, params)
        assert again.prompt_logprobs == whole.prompt_logprobs
        assert again.num_cached_tokens == 0
    (one,) = outputs(smol, prompt, greedy(max_tokens=1))
    assert one.prompt_logprobs is None


def test_prompt_logprobs_survive_preemption(smol: LLM, limited: Callable[..., LLM], prompts: list[list[int]]) -> None:
    params = greedy(prompt_logprobs=1, max_tokens=20, ignore_eos=True)
    items = [{"prompt_token_ids": prompts[i]} for i in (16, 17, 18)]
    expected = [output.prompt_logprobs for output in outputs(limited(smol), items, params)]
    llm = limited(smol, blocks=13)
    assert [output.prompt_logprobs for output in outputs(llm, items, params)] == expected
    assert llm.stats().preemptions > 0


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


# Bad input


BAD_PROMPTS: Sequence[tuple[Any, str]] = [
    ("", "empty"),
    ({"prompt_token_ids": []}, "empty"),
    ({"prompt_token_ids": [1] * 8192}, "8192 tokens.*max_model_len=8192.*at most 8191"),
    ({"prompt_token_ids": [49152]}, "49152 is not in the vocabulary.*0 to 49151"),
    ({"prompt_token_ids": [-1]}, "-1 is not in the vocabulary"),
    ({"prompt_token_ids": ["a"]}, "must be integers, found 'a'"),
    ({"prompt_token_ids": 5}, "not 5"),
    ({"prompt": None}, "must be a string, not NoneType"),
    (None, "must be text.*not None"),
    (3.5, "must be text.*not 3.5"),
    ({"prompt": "a", "messages": []}, "exactly one of"),
    ({"promt": "a"}, "'promt' is not supported.*prompt_token_ids"),
    ({"messages": 5}, "messages.*not 5"),
    ({"messages": "hello"}, "messages.*not 'hello'"),
    ({"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": "x"}, "chat_template_kwargs.*not 'x'"),
    ({"prompt": "a", "priority": "high"}, "priority must be an integer, not 'high'"),
    ({"prompt": "a", "cache_salt": 3}, "cache_salt must be a string, not 3"),
    ("half \ud800", r"U\+D800"),
]


@pytest.mark.parametrize(("prompt", "message"), BAD_PROMPTS, ids=lambda value: repr(value)[:30])
def test_bad_prompt_is_one_error_among_good_outputs(smol: LLM, prompt: Any, message: str) -> None:
    results = outputs(smol, [PROMPT, prompt, PROMPT], greedy(max_tokens=1))
    assert [result.error is None for result in results] == [True, False, True]
    assert not results[1].outputs
    assert results[1].finished
    assert re.search(message, results[1].error or ""), results[1].error
    with pytest.raises(InputError, match=message):
        smol.generate([PROMPT, prompt], greedy(max_tokens=1), use_tqdm=False, on_error="raise")
    assert smol.stats().kv_blocks_used == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 1.5),
        ("seed", "a"),
        ("stop", [""]),
        ("stop_token_ids", [-1]),
        ("logprobs", -2),
        ("prompt_logprobs", True),
    ],
)
def test_bad_sampling_parameter_names_field_value_and_range(field: str, value: Any) -> None:
    with pytest.raises(ParameterError) as caught:
        SamplingParams(**{field: value})
    text = str(caught.value)
    assert text.startswith(f"{field}={value!r} is not allowed: {field} must be ")
    assert len(text.split("must be ")[1]) > 5


def test_contradictions_between_sampling_parameters() -> None:
    with pytest.raises(ParameterError, match=r"n=2.*temperature"):
        SamplingParams(n=2, temperature=0)
    with pytest.raises(ParameterError, match="detokenize=False"):
        SamplingParams(stop="x", detokenize=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_model_length": 5}, "max_model_length=5.*did you mean 'max_model_len'"),
        ({"dtype": "fp8"}, "dtype='fp8'.*float32, bfloat16"),
        ({"dtype": "float16"}, "dtype='float16'.*float32 or bfloat16 on the CPU"),
        ({"device": "cuda"}, "device='cuda'.*no CUDA device"),
        ({"block_size": 24}, "block_size=24.*16, 32"),
        ({"block_size": 256}, "block_size=256.*128"),
        ({"block_size": "16"}, "block_size='16'"),
        ({"max_num_seqs": 0}, "max_num_seqs=0.*at least 1"),
        ({"max_num_seqs": True}, "max_num_seqs=True"),
        ({"max_model_len": 9000}, "max_model_len=9000.*at most 8192"),
        ({"kv_cache_memory_bytes": 1 << 20}, "max_model_len=8192.*1.0 MiB.*kv_cache_memory_bytes=\\d+"),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 100}, "max_num_batched_tokens=100.*8192"),
        ({"runner": "pooling"}, "runner='pooling'.*auto or generate"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization=1.5.*at most 1"),
        ({"seed": "x"}, "seed='x'.*integer"),
        ({"enable_prefix_caching": "no"}, "enable_prefix_caching='no'.*bool"),
        ({"scheduling_policy": "lifo"}, "scheduling_policy='lifo'.*fcfs, priority"),
        ({"revision": "main"}, "revision='main'"),
    ],
    ids=str,
)
def test_bad_engine_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(SMOLLM, **({"skip_tokenizer_init": True} | arguments))


def test_memory_hint_is_enough() -> None:
    """The bytes that the message names are the least that work."""
    with pytest.raises(ParameterError) as caught:
        LLM(SMOLLM, dtype="bfloat16", max_model_len=100, kv_cache_memory_bytes=1000, skip_tokenizer_init=True)
    enough = int(str(caught.value).split("kv_cache_memory_bytes=")[1].split()[0])
    with LLM(
        SMOLLM,
        dtype="bfloat16",
        max_model_len=100,
        kv_cache_memory_bytes=enough,
        skip_tokenizer_init=True,
        load_format="dummy",
        enable_prefix_caching=False,
    ) as llm:
        prompts: list[Any] = [{"prompt_token_ids": [i] * 60} for i in range(1, 4)]
        results = outputs(llm, prompts, SamplingParams(max_tokens=None, temperature=0, ignore_eos=True))
        assert [len(result.outputs[0].token_ids) for result in results] == [40] * 3
        assert outputs(llm, "text", greedy())[0].error == (
            "a text prompt needs a tokenizer, but skip_tokenizer_init is set: pass prompt_token_ids"
        )
        assert "stop_token_ids" in (outputs(llm, prompts[0], greedy(stop="x"))[0].error or "")
        with pytest.raises(RuntimeError, match="skip_tokenizer_init"):
            llm.get_tokenizer()
    with pytest.raises(RuntimeError, match="closed"):
        outputs(llm, prompts, greedy())


def test_unknown_model() -> None:
    with pytest.raises(ModelNotFoundError, match="smollm2-135m-instruct"):
        LLM("smollm2-135m-instuct")


def test_wrong_kind_of_model_or_parameters(smol: LLM, minilm: LLM) -> None:
    with pytest.raises(TypeError, match=r"offers generate\(\) and chat\(\)"):
        smol.embed("a")
    with pytest.raises(TypeError, match=r"offers embed\(\)"):
        minilm.generate("a")
    with pytest.raises(TypeError, match="SamplingParams"):
        list(smol.stream(["a"], PoolingParams()))
    with pytest.raises(ValueError, match="1 parameters for 2 prompts"):
        outputs(smol, ["a", "b"], [greedy()])
    with pytest.raises(ParameterError, match=r"on_error='ignore'.*output"):
        smol.generate("a", greedy(), use_tqdm=False, on_error="ignore")  # type: ignore[arg-type]


# Engine


def test_generation_config_gives_defaults_only_without_parameters(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "eos_token_id": [1, 999],
    }
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
