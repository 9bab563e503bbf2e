"""Where defaults come from: generation_config, its overrides, and what a model's config is changed to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import LLM, ParameterError, SamplingParams
from engine.args import EngineArgs
from tests.engine.ask import PROMPT, SMOLLM, TINY, greedy, outputs

CONFIG: dict[str, Any] = {**TINY, "max_position_embeddings": 128, "eos_token_id": 1}
OWN = {"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 7, "eos_token_id": [5, 6], "do_sample": True}
Tiny = Callable[..., LLM]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "generation_config.json").write_text(json.dumps(OWN))

    def make(**arguments: Any) -> LLM:
        return LLM(str(tmp_path), load_format="dummy", skip_tokenizer_init=True, **arguments)

    return make


def ends(llm: LLM) -> set[int]:
    """Ids that end one of 60 sampled outputs."""
    prompts = [{"prompt_token_ids": [3, 4 + i % 40]} for i in range(60)]
    found = outputs(llm, prompts, SamplingParams(max_tokens=100))
    return {one.outputs[0].token_ids[-1] for one in found if one.outputs[0].finish_reason == "stop"}


def test_the_models_own_file(tiny: Tiny) -> None:
    with tiny() as llm:
        params = llm.get_default_sampling_params()
        assert (params.temperature, params.top_p, params.max_tokens) == (0.6, 0.9, 7)
        (output,) = llm.generate({"prompt_token_ids": [3]}, use_tqdm=False)
        assert len(output.outputs[0].token_ids) <= 7
        (given,) = llm.generate({"prompt_token_ids": [3]}, greedy(max_tokens=20, ignore_eos=True), use_tqdm=False)
        assert len(given.outputs[0].token_ids) == 20, "given parameters take nothing from the file"
        assert ends(llm) == {1, 5, 6}


def test_vllm_means_the_engines_own_defaults_and_the_models_ends(tiny: Tiny) -> None:
    with tiny(generation_config="vllm") as llm:
        assert llm.get_default_sampling_params() == SamplingParams()
        assert ends(llm) == {1, 5, 6}


def test_another_folder(tiny: Tiny, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "generation_config.json").write_text(json.dumps({"top_k": 3, "eos_token_id": 9}))
    with tiny(generation_config=str(other)) as llm:
        assert llm.get_default_sampling_params() == SamplingParams(top_k=3)
        assert ends(llm) == {1, 9}
    with pytest.raises(ParameterError, match=r"generation_config='.*nowhere'.*auto, vllm .* folder"):
        tiny(generation_config=str(tmp_path / "nowhere"))


def test_overrides_come_last(tiny: Tiny) -> None:
    with tiny(override_generation_config={"temperature": 0.1, "max_new_tokens": None, "eos_token_id": [8]}) as llm:
        params = llm.get_default_sampling_params()
        assert (params.temperature, params.top_p, params.max_tokens) == (0.1, 0.9, 16)
        assert ends(llm) == {1, 8}
    with tiny(generation_config="vllm", override_generation_config={"top_k": 5}) as llm:
        assert llm.get_default_sampling_params() == SamplingParams(top_k=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"override_generation_config": {"temprature": 1}}, r"'temprature'.*did you mean 'temperature'"),
        ({"override_generation_config": {"temperature": -1}}, r"temperature=-1"),
        ({"override_generation_config": {"eos_token_id": "x"}}, r"eos_token_id.*token id or a list"),
        ({"override_generation_config": [1]}, r"override_generation_config=\[1\]"),
        ({"generation_config": 3}, "generation_config=3"),
        ({"chat_template": 3}, "chat_template=3"),
        ({"hf_overrides": "x"}, "hf_overrides='x'.*function"),
    ],
)
def test_wrong_values_are_named_before_anything_is_loaded(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        EngineArgs(model="m", **arguments)


# hf_overrides


def test_overrides_change_the_model(smol: LLM) -> None:
    expected = outputs(smol, PROMPT, greedy())[0].outputs[0].token_ids
    with LLM(SMOLLM, dtype="float32", hf_overrides={"rope_theta": 500.0}) as llm:
        assert outputs(llm, PROMPT, greedy())[0].outputs[0].token_ids != expected
    with LLM(SMOLLM, load_format="dummy", hf_overrides={"max_position_embeddings": 40}) as llm:
        assert "max_model_len=40" in (outputs(llm, {"prompt_token_ids": [5] * 50}, greedy())[0].error or "")


def test_a_function_gets_entries_as_keys_and_attributes(tiny: Tiny) -> None:
    def change(config: Any) -> Any:
        assert config["vocab_size"] == config.vocab_size == 64
        config.max_position_embeddings = 24
        config.update({"eos_token_id": 2})
        return config

    with tiny(hf_overrides=change) as llm:
        (output,) = outputs(llm, {"prompt_token_ids": [3]}, SamplingParams(max_tokens=None, ignore_eos=True))
        assert len(output.outputs[0].token_ids) == 23
        assert ends(llm) == {2, 5, 6}
    with pytest.raises(ParameterError, match="function that returns the config"):
        tiny(hf_overrides=lambda config: None)


def test_mappings_merge_level_by_level(tmp_path: Path) -> None:
    from engine.model.files import resolve_model
    from engine.model.weights import read_config

    scaling = {"rope_type": "linear", "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "rope_parameters": {**scaling, "rope_theta": 10.0}}))
    files = resolve_model(str(tmp_path), load_format="dummy")
    assert read_config(files, {"rope_scaling": {"factor": 4.0}})["rope_scaling"] == {**scaling, "factor": 4.0}
    assert read_config(files, {"rope_theta": 7.0})["rope_theta"] == 7.0
    assert read_config(files, {"rope_parameters": {"rope_theta": 8.0}})["rope_theta"] == 8.0
    assert read_config(files, {"text_config": {"rope_theta": 9.0}})["rope_theta"] == 9.0


def test_override_that_nothing_reads_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ParameterError, match=r"'rope_thta'.*has an effect.*did you mean 'rope_theta'"):
        tiny(hf_overrides={"rope_thta": 5.0})
