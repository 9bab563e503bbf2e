"""What a peer cannot do is refused by name, before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from engine.params import SamplingParams
from runner.config.peers import SAMPLING
from runner.errors import ConfigError
from tests.runner.peers.tiny import configuration

CHAT = {"task": {"kind": "chat"}, "prompt": {"user": "{{ ids }}"}}


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling": {"logprobs": 3}}, "sampling.logprobs=3 has no meaning for engine="),
        ({"sampling": {"n": 2, "temperature": 1.0}}, "sampling.n=2 has no meaning for engine="),
        ({"sampling": {"bad_words": ["x"]}}, "sampling.bad_words=['x'] has no meaning"),
        (
            {"task": {"kind": "generate", "sampling_columns": ["prompt_logprobs"]}},
            "names 'prompt_logprobs', which engine=",
        ),
        ({"model": {"name": "m", "hf_overrides": {"a": 1}}}, "model.hf_overrides={'a': 1} has no meaning"),
        ({"load": {"kind": "poisson", "rate": 1.0, "duration_s": 1.0}}, "it runs with load=offline"),
        ({"task": {"kind": "embed"}, "prompt": {"template": "x"}, "sampling": {}}, "task=embed"),
        ({"sampling": {"detokenize": True}}, "engine.skip_tokenizer_init=True needs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_name_key_value_and_engine(kind: str, changes: dict[str, Any], words: str) -> None:
    if changes.get("task", {}).get("kind") == "embed":
        changes = changes | {"sampling": {"temperature": 1.0, "detokenize": True}}
    with pytest.raises(ConfigError) as refusal:
        configuration({"kind": kind}, "m", **changes)
    assert words in str(refusal.value)


def test_fields_that_only_one_of_them_has() -> None:
    configuration({"kind": "vllm"}, "m", sampling={"seed": 7, "presence_penalty": 0.5})
    for name, value in (("seed", 7), ("presence_penalty", 0.5)):
        with pytest.raises(
            ConfigError, match=rf"sampling.{name}={value} has no meaning for engine=transformers: it takes"
        ):
            configuration({"kind": "transformers"}, "m", sampling={name: value})


def test_parsers_belong_to_the_native_engine() -> None:
    chat = CHAT | {"task": {"kind": "chat", "tool_parser": "auto"}}
    with pytest.raises(ConfigError, match=r"task.tool_parser='auto' has no meaning for engine=vllm"):
        configuration({"kind": "vllm", "skip_tokenizer_init": False}, "m", sampling={"detokenize": True}, **chat)


def test_keys_of_other_engines_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"engine.preemption_mode='swap' has no meaning for engine.kind='transformers'"
    ):
        configuration({"kind": "transformers", "preemption_mode": "swap"}, "m")
    with pytest.raises(ConfigError, match=r"engine.enable_prefix_caching=True is not allowed"):
        configuration({"kind": "transformers", "enable_prefix_caching": True}, "m")


def test_every_field_that_peers_are_said_to_have_is_one() -> None:
    known = SamplingParams.__dataclass_fields__.keys()
    assert all(fields <= known for fields in SAMPLING.values())
