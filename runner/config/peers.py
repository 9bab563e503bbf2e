"""Other engines that run the same recipe for comparison, and what of a recipe each of them can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from engine.params import SamplingParams
from runner.config.sections import ChatTask, EmbedTask, Section
from runner.errors import ConfigError, listing

if TYPE_CHECKING:
    from runner.config.schema import Config


class TransformersEngine(Section):
    """transformers' ``generate`` on static batches, in this process.

    Args:
        device: auto, cpu or cuda.
        seed: of the draws; rows do not have seeds of their own.
        max_model_len: as for the native engine: prompts that leave no room are refused.
        max_num_seqs: rows of a batch; a batch takes as long as its longest row.
        attn_implementation: transformers' own choice where null: sdpa, eager, flash_attention_2...
        enable_prefix_caching: it has none, so nothing but false may be said.
        skip_tokenizer_init: as for the native engine.
    """

    kind: Literal["transformers"] = "transformers"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1)] = 32
    attn_implementation: str | None = None
    enable_prefix_caching: Literal[False] | None = None
    skip_tokenizer_init: bool = False


class VllmEngine(Section):
    """vLLM in a process of its own, so that its libraries may be others than ours.

    Args:
        python: the interpreter of the environment in which vLLM is installed; null is this one.
        arguments: further arguments of ``vllm.LLM``, as they are.
        environment: environment variables of its process.

    The others mean what they mean there; null is vLLM's own choice.
    """

    kind: Literal["vllm"] = "vllm"
    python: str | None = None
    seed: int = 0
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1)] | None = None
    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = None
    block_size: Annotated[int, Field(ge=1)] | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    enforce_eager: bool | None = None
    skip_tokenizer_init: bool = False
    arguments: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)


PeerEngine = TransformersEngine | VllmEngine

_SHARED = {
    "max_tokens", "min_tokens", "ignore_eos", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop",
    "stop_token_ids", "include_stop_str_in_output", "detokenize", "skip_special_tokens",
    "spaces_between_special_tokens", "output_kind", "truncate_prompt_tokens",
}  # fmt: skip
SAMPLING: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "transformers": frozenset(_SHARED),
        "vllm": frozenset(
            {*_SHARED, "seed", "presence_penalty", "frequency_penalty", "logit_bias", "allowed_token_ids"}
        ),
    }
)
"""Sampling parameters that each peer has with the same meaning."""


def check_peer(config: Config) -> None:
    """Refuse what the peer cannot do, by name; nothing is silently left out.

    Raises:
        ConfigError: the message names key, value and what the peer has.
    """
    engine = config.engine
    if not isinstance(engine, (TransformersEngine, VllmEngine)):
        return
    kind = engine.kind
    defaults = SamplingParams()
    for field in fields(SamplingParams):
        value = getattr(config.sampling, field.name)
        if field.init and field.name not in SAMPLING[kind] and value != getattr(defaults, field.name):
            raise ConfigError(f"sampling.{field.name}={value!r} has no meaning for engine={kind}: {_known(kind)}")
    for name in getattr(config.task, "sampling_columns", ()):
        if name not in SAMPLING[kind]:
            raise ConfigError(
                f"task.sampling_columns names {name!r}, which engine={kind} does not have: {_known(kind)}"
            )
    refused: list[tuple[str, Any]] = [("model.hf_overrides", config.model.hf_overrides)]
    if isinstance(config.task, ChatTask):
        refused += [(f"task.{name}", getattr(config.task, name)) for name in ("reasoning_parser", "tool_parser")]
    for key, value in refused:
        if value:
            raise ConfigError(f"{key}={value!r} has no meaning for engine={kind}: leave it out")
    if isinstance(config.task, EmbedTask):
        raise ConfigError(f"engine={kind} completes texts: task=embed has no meaning for it")
    if config.load.kind != "offline":
        raise ConfigError(f"load={config.load.kind} has no meaning for engine={kind}: it runs with load=offline")
    _check_tokenizer(config, engine)


def _check_tokenizer(config: Config, engine: PeerEngine) -> None:
    if engine.skip_tokenizer_init and (config.prompt.token_ids is None or config.sampling.detokenize):
        raise ConfigError(
            "engine.skip_tokenizer_init=True needs prompt.token_ids and sampling.detokenize=false: without a tokenizer "
            "there is no text"
        )


def _known(kind: str) -> str:
    return f"it takes {listing(SAMPLING[kind])}"
