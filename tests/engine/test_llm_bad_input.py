"""Bad input: one clear message that names the thing, the value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from engine import LLM, ParameterError, PoolingParams, SamplingParams
from engine.model.files import ModelNotFoundError
from engine.text.inputs import InputError
from tests.engine.ask import PROMPT, SMOLLM, greedy, outputs

BAD_PROMPTS: Sequence[tuple[Any, str]] = [
    ("", "empty"),
    ({"prompt_token_ids": []}, "empty"),
    ({"prompt_token_ids": [1] * 8192}, "8192 tokens.*max_model_len=8192.*at most 8191"),
    ({"prompt_token_ids": [49152]}, "49152 is not in the vocabulary.*0 to 49151"),
    ({"prompt_token_ids": [-1]}, "-1 is not in the vocabulary"),
    ({"prompt_token_ids": ["a"]}, "must be integers, found 'a'"),
    ({"prompt_token_ids": 5}, "not 5"),
    ({"prompt": None}, "exactly one of prompt"),
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
        ("prompt_logprobs", "all"),
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
        ({"preemption_mode": "drop"}, "preemption_mode='drop'.*recompute, swap"),
        ({"preemption_mode": "swap", "swap_space": 1e6}, "swap_space=1000000.0.*at most .*GiB that are free"),
        ({"swap_space": -1}, "swap_space=-1.*GiB from 0"),
        ({"enable_admission_control": 1}, "enable_admission_control=1.*bool"),
        ({"scheduling_policy": "lifo"}, "scheduling_policy='lifo'.*longest_first, prefix_grouped, fcfs, priority"),
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


def nested(depth: int) -> list[Any]:
    """Lists in lists, too deep to be printed."""
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


@pytest.mark.parametrize("broken", ["content", "ids"])
def test_a_prompt_whose_reading_fails_in_any_way_is_one_error(smol: LLM, broken: str) -> None:
    prompt: Any = {"prompt_token_ids": (1 // 0 for _ in range(2))}
    if broken == "content":
        prompt = {"messages": [{"role": "user", "content": nested(5000)}]}
    bad, good = outputs(smol, [prompt, PROMPT], greedy(max_tokens=1))
    assert good.outputs[0].text == " Paris"
    assert "the prompt cannot be read: " in str(bad.error)


def test_any_text_may_be_a_salt(smol: LLM) -> None:
    salted = {"prompt": PROMPT, "cache_salt": "half \ud800"}
    for output in outputs(smol, [salted, PROMPT], greedy(max_tokens=1)):
        assert output.outputs[0].text == " Paris"


@pytest.mark.parametrize("broken", ["circular", "deep", "deep text", "no text as key"])
def test_a_schema_that_cannot_be_written_is_one_error(smol: LLM, broken: str) -> None:
    schema: Any = {}
    if broken == "circular":
        schema["properties"] = {"a": schema}
    elif broken == "deep":
        schema = {"enum": nested(5000)}
    elif broken == "deep text":
        schema = "[" * 100_000
    else:
        schema = {("a", "b"): 1}
    params = [greedy(max_tokens=1, structured_outputs={"json": schema}), greedy(max_tokens=1)]
    bad, good = outputs(smol, [PROMPT, PROMPT], params)
    assert good.outputs[0].text == " Paris"
    assert not bad.outputs
    assert "structured_outputs.json cannot be used: " in str(bad.error)
