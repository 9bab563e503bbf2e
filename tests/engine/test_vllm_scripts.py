"""What vLLM scripts do beside the main path: it works with the import changed, or is refused by name."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import engine
from engine import LLM, EngineArgs, ParameterError, PoolingParams, SamplingParams, UnsupportedOptionError
from tests.engine.ask import PROMPT, SMOLLM, complete, greedy, outputs
from tests.engine.null_model import drain, null_llm, run, serve

NAMES = (
    "LLM", "SamplingParams", "PoolingParams", "AsyncLLMEngine", "AsyncEngineArgs", "EngineArgs", "TextPrompt",
    "TokensPrompt", "EmbedsPrompt",
    "PromptType", "RequestOutput", "CompletionOutput", "PoolingOutput", "PoolingRequestOutput",
    "EmbeddingOutput", "EmbeddingRequestOutput",
)  # fmt: skip


def test_names_that_scripts_import_and_errors_that_they_catch() -> None:
    for name in (*NAMES, "InputError", "AsleepError", "UnsupportedOptionError", "ParameterError"):
        assert getattr(engine, name) is getattr(importlib.import_module("engine"), name)
        assert name in engine.__all__
    assert engine.EmbeddingOutput is engine.Embedding
    assert issubclass(engine.InputError, ValueError)


# SamplingParams


def test_a_list_that_is_changed_in_place_counts(smol: LLM) -> None:
    plain = complete(smol, PROMPT, max_tokens=8)
    params: Any = greedy(max_tokens=8)
    params.stop.append(plain.text[3])
    (cut,) = outputs(smol, [PROMPT], params)
    assert (cut.outputs[0].finish_reason, cut.outputs[0].stop_reason) == ("stop", plain.text[3])
    params = greedy(max_tokens=8)
    params.stop_token_ids.append(plain.token_ids[2])
    (cut,) = outputs(smol, [PROMPT], params)
    assert cut.outputs[0].token_ids == plain.token_ids[:3]
    params.stop.append("")
    (wrong,) = outputs(smol, [PROMPT], params)
    assert wrong.error is not None
    assert "non-empty strings" in wrong.error


def test_clone_shares_nothing() -> None:
    params: Any = SamplingParams(stop="a", logit_bias={1: 2.0}, bad_words=["b"])
    other = params.clone()
    assert other == params
    other.stop.append("c")
    other.bad_words.append("d")
    other.logit_bias[3] = 4.0
    assert params == SamplingParams(stop="a", logit_bias={1: 2.0}, bad_words=["b"])


def test_from_optional_takes_defaults_for_none_and_clamps_biases() -> None:
    given: dict[str, Any] = {"temperature": None, "top_p": None, "n": None, "stop": None, "logprobs": None}
    assert SamplingParams.from_optional(**given) == SamplingParams()
    assert SamplingParams.from_optional(max_tokens=None).max_tokens is None
    params = SamplingParams.from_optional(temperature=0.5, logit_bias={"7": 1000, 8: -1000.0})
    assert (params.temperature, params.logit_bias) == (0.5, {7: 100.0, 8: -100.0})
    with pytest.raises(ParameterError, match="top_p=2"):
        SamplingParams.from_optional(top_p=2)


def test_values_that_vllm_reads_as_others() -> None:
    assert SamplingParams(seed=-1) == SamplingParams()
    assert SamplingParams(logprobs=True, prompt_logprobs=True) == SamplingParams(logprobs=1, prompt_logprobs=1)
    assert (SamplingParams().stop, SamplingParams().stop_token_ids) == ([], [])
    assert SamplingParams(stop="a").stop == ["a"]


# Prompts


def test_token_ids_with_their_text(smol: LLM) -> None:
    ids = smol.get_tokenizer().encode(PROMPT)
    expected = complete(smol, PROMPT, max_tokens=4).token_ids
    asked = [
        {"prompt_token_ids": ids, "prompt": "its text"},
        {"prompt_token_ids": ids, "prompt": None, "cache_salt": None, "multi_modal_data": None},
        {"prompt": PROMPT, "prompt_token_ids": None},
        {"prompt_token_ids": np.array(ids)},
        {"prompt_token_ids": ids, "prompt": 5},
        {"prompt": None},
    ]
    found = outputs(smol, asked, greedy(max_tokens=4))
    assert [one.outputs[0].token_ids for one in found[:4]] == [expected] * 4
    assert [one.prompt for one in found[:4]] == ["its text", None, PROMPT, None]
    assert all(type(token) is int for token in found[3].prompt_token_ids)
    assert "must be their text" in str(found[4].error)
    assert "exactly one of" in str(found[5].error)


def test_options_that_ask_for_nothing(smol: LLM) -> None:
    for options in ({"priority": 0}, {"priority": [0]}, {"lora_request": None}, {"lora_request": [None]}):
        assert smol.generate([PROMPT], greedy(max_tokens=1), use_tqdm=False, **options)[0].finished
    with pytest.raises(ParameterError, match=r"priority=\[0, 1\]"):
        smol.generate([PROMPT] * 2, greedy(max_tokens=1), use_tqdm=False, priority=[0, 1])


def test_what_is_no_prompt_is_said_so(smol: LLM) -> None:
    """Also bytes, which are a sequence of integers and no token ids."""
    for given in (b"abc", [b"abc"], {"prompt_token_ids": b"abc"}):
        (output,) = outputs(smol, given, greedy(max_tokens=1))
        assert "must be text, a list of token ids or a mapping, not b'abc'" in str(output.error)
    with pytest.raises(TypeError, match="prompts must be a prompt, or an iterable of prompts, not 5"):
        outputs(smol, 5, greedy())
    with pytest.raises(TypeError, match="messages must be a list of messages, or several of them, not None"):
        smol.chat(None, use_tqdm=False)  # type: ignore[arg-type]


# Outputs


def test_outputs_have_the_attributes_and_types_that_scripts_use(smol: LLM, minilm: LLM) -> None:
    (output,) = outputs(smol, [PROMPT], greedy(max_tokens=2, logprobs=1, prompt_logprobs=1))
    one: Any = output.outputs[0]
    assert output.prompt_token_ids + one.token_ids == smol.get_tokenizer().encode(PROMPT) + one.token_ids
    for value in (output.outputs, output.prompt_logprobs, one.logprobs):
        assert isinstance(value, list)
    assert one.finished()
    assert output.lora_request is one.lora_request is None
    embedded = minilm.embed("a cat", PoolingParams(dimensions=8), use_tqdm=False)[0]
    assert (embedded.outputs.hidden_size, embedded.num_cached_tokens) == (8, 0)
    assert isinstance(embedded.outputs.embedding, list)


def test_printing_shows_values(smol: LLM) -> None:
    assert repr(smol) == "LLM(model='smollm2-135m-instruct')"
    one = complete(smol, PROMPT, max_tokens=1, logprobs=1, flat_logprobs=True)
    assert "decoded_tokens=[' Paris']" in repr(one)


def test_outputs_of_beams_are_lists(smol: LLM) -> None:
    (found,) = smol.beam_search([PROMPT], engine.BeamSearchParams(2, 2))
    assert isinstance(found.sequences, list)
    assert isinstance(found.sequences[0].tokens, list)


# Engine arguments


def test_an_engine_from_arguments() -> None:
    args = EngineArgs(model="all-minilm-l6-v2", dtype="float32")
    with LLM.from_engine_args(args) as llm:
        assert llm.args == args
        assert len(llm.embed("a cat", use_tqdm=False)[0].outputs.embedding) == 384


def test_arguments_at_vllms_defaults_are_accepted_and_others_refused_by_name() -> None:
    import torch

    defaults: dict[str, Any] = {
        "quantization": None, "kv_cache_dtype": "auto", "cpu_offload_gb": 0, "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1, "data_parallel_size": 1, "enable_lora": False, "max_loras": 1,
        "max_lora_rank": 16, "limit_mm_per_prompt": {"image": 0}, "tokenizer_mode": "auto",
        "enable_prefix_caching": None, "enable_chunked_prefill": None, "async_scheduling": None,
    }  # fmt: skip
    args = EngineArgs(model="m", trust_remote_code=True, enable_sleep_mode=True, disable_log_stats=False, **defaults)
    assert args.enable_prefix_caching is args.enable_chunked_prefill is args.async_scheduling is True
    for name, value in (
        ("quantization", "awq"), ("kv_cache_dtype", "fp8"), ("cpu_offload_gb", 4), ("tensor_parallel_size", 2),
        ("pipeline_parallel_size", 2), ("data_parallel_size", 8), ("enable_lora", True), ("max_loras", 4),
        ("max_lora_rank", 64), ("limit_mm_per_prompt", {"image": 1}), ("distributed_executor_backend", "ray"),
    ):  # fmt: skip
        with pytest.raises(UnsupportedOptionError, match=f"^{name}=.* is not supported: "):
            LLM("m", **{name: value})
    with pytest.raises(ParameterError, match="trust_remote_code='yes'"):
        EngineArgs(model="m", trust_remote_code="yes")  # type: ignore[arg-type]
    dtypes: list[tuple[Any, str]] = [
        ("half", "float16"),
        ("float", "float32"),
        (torch.bfloat16, "bfloat16"),
        ("auto", "auto"),
    ]
    for dtype, known in dtypes:
        assert EngineArgs(model="m", dtype=dtype).dtype == known


def test_a_cache_that_the_host_has_no_room_for_is_refused_before_it_is_made() -> None:
    """Lazily allocated memory would let the engine start, and the system kill it later."""
    small: dict[str, Any] = {"load_format": "dummy", "hf_overrides": {"num_hidden_layers": 1}, "device": "cpu"}
    with pytest.raises(ParameterError, match=r"kv_cache_memory_bytes=\d+ .* at most \d+ \(\d+ MiB are free\)"):
        LLM(SMOLLM, kv_cache_memory_bytes=1 << 60, max_num_seqs=10**9, **small)


def test_a_lora_request_of_the_asynchronous_engine_is_refused_by_name() -> None:
    async def work() -> None:
        async with serve(null_llm()) as llm:
            *_, last = await drain(llm.generate("a", greedy(max_tokens=1), "a", lora_request=None))
            assert last.finished
            with pytest.raises(UnsupportedOptionError, match="lora_request"):
                llm.generate("a", greedy(max_tokens=1), "b", lora_request="x")

    run(work())
