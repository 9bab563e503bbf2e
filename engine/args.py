"""Engine arguments, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from engine.params import ParameterError
from engine.params.defaults import check_generation_overrides
from engine.peer_args import PeerArgs
from engine.speculate.config import read_speculative_config

DTYPES = ("auto", "float32", "bfloat16", "float16")
OTHER_DTYPES: Mapping[str, str] = {"half": "float16", "float": "float32"}
LOAD_FORMATS = ("auto", "safetensors", "gguf", "dummy")
POLICIES = ("longest_first", "prefix_grouped", "fcfs", "priority")
PREEMPTION_MODES = ("recompute", "swap")
DEVICES = ("auto", "cpu", "cuda")
BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # attention reads keys in tiles of 128 tokens, each of whole blocks
FLAGS: Mapping[str, type] = {
    "enable_chunked_prefill": bool,
    "enable_prefix_caching": bool,
    "enable_pacing": bool,
    "enable_admission_control": bool,
    "batch_invariant": bool,
    "enforce_eager": bool,
    "async_scheduling": bool,
    "disable_cascade_attn": bool,
    "concurrent_attention": bool,
    "skinny_gemm": bool,
    "fused_gate": bool,
    "split_prefill": bool,
    "programmatic_launch": bool,
    "skip_tokenizer_init": bool,
    "enable_prompt_embeds": bool,
}
OPTIONAL_FLAGS = ("enable_chunked_prefill", "enable_prefix_caching", "async_scheduling")  # vLLM's None: as by default


@dataclass(frozen=True, kw_only=True)
class EngineArgs(PeerArgs):
    """How the engine is built. Names follow vLLM; sizes are tokens, sequences or bytes.

    The last entries are vLLM's arguments for what Galley does not offer: their defaults are accepted, anything else is
    refused by name with what to do instead.

    Args:
        model: a known short name, a local folder, a ``.gguf`` file or a hub id.
        tokenizer: where the tokenizer is, if not with the model.
        revision: the hub revision.
        runner: ``generate`` or ``pooling``; ``auto`` infers it from the architecture.
        dtype: weights and activations; ``auto`` is the checkpoint's own, on CPU float32 for GGUF. ``half``, ``float``
            and torch's dtypes are understood.
        max_model_len: most tokens of prompt and output together; ``None`` is the model's own limit.
        load_format: where weights come from; ``dummy`` draws them at a trained model's scale.
        seed: the engine seed, from which unseeded requests draw.
        hf_overrides: changes to the model's config: a mapping, merged in level by level, or a function that is given
            the config (entries are keys and attributes) and returns it.
        generation_config: where default sampling parameters come from: ``auto`` (the model's generation_config.json),
            ``vllm`` (none: the engine's own) or a folder with such a file.
        override_generation_config: entries in place of those.
        chat_template: in place of the tokenizer's: a Jinja template, or a file with one.
        kv_cache_memory_bytes: size of the KV cache; ``None`` sizes it from free memory.
        gpu_memory_utilization: share of the device's memory that the engine may use.
        block_size: tokens in one KV cache block; ``None`` is 16 on the CPU and 64, what the copy engine takes, on CUDA.
        max_num_batched_tokens: tokens in one step; ``None`` lets the device decide.
        max_num_seqs: sequences in one step; ``None`` lets the device decide.
        scheduling_policy: order in which requests run; ``longest_first``, ``prefix_grouped``, ``fcfs`` or ``priority``.
            Tokens are the same whatever the order.
        enable_pacing: under ``longest_first``, spread prompts over the steps that the longest output needs.
        enable_admission_control: start a request only where the KV cache has room for what it and the running ones will
            hold, so that hardly any is preempted.
        preemption_mode: what becomes of a preempted request's cache: ``recompute`` it, or ``swap`` it to host memory
            (and recompute what does not fit there).
        swap_space: GiB of host memory for that.
        enable_chunked_prefill: let one prompt be computed over several steps.
        enable_prefix_caching: reuse the blocks of equal prompt beginnings.
        batch_invariant: make every row's arithmetic independent of its neighbours; on the CPU it always is.
        enforce_eager: on CUDA, launch every kernel by itself instead of replaying captured graphs.
        async_scheduling: on CUDA, plan and launch the next step while one is computed.
        disable_cascade_attn: on CUDA, let every sequence read prompt beginnings that it shares with others by itself.
        concurrent_attention: on CUDA, let a step's prompts and decoding sequences attend side by side; off: unmeasured.
        skinny_gemm: on CUDA, our own product for a few rows.
        fused_gate: on CUDA, the gated activation at the end of that product.
        split_prefill: on CUDA, attention of a few queries behind a long context is split along its keys.
        programmatic_launch: on CUDA, let kernels start while the one before ends.
        speculative_config: draft tokens and check them together: the fields of ``SpeculativeConfig``. Outputs are the
            same to the bit; ``None`` drafts nothing.
        device: ``auto`` takes CUDA where there is one.
        skip_tokenizer_init: run on token ids alone.
        enable_prompt_embeds: allow prompts that are embeddings instead of tokens (``prompt_embeds``).
        trust_remote_code: no code that comes with a model is ever run, so this permission changes nothing.
        enable_sleep_mode: ``sleep`` is always there.
        disable_log_stats: ``get_metrics`` is always there.
        quantization, kv_cache_dtype, cpu_offload_gb: not offered.
        tensor_parallel_size, pipeline_parallel_size, data_parallel_size, distributed_executor_backend: not offered.
        enable_lora, max_loras, max_lora_rank, limit_mm_per_prompt, tokenizer_mode: not offered.

    Raises:
        ParameterError: a value is not allowed; the message names the argument, the value and what is allowed.
        UnsupportedOptionError: an argument asks for what Galley does not offer.
    """

    model: str
    tokenizer: str | None = None
    revision: str | None = None
    runner: Literal["auto", "generate", "pooling"] = "auto"
    dtype: str = "auto"
    max_model_len: int | None = None
    load_format: str = "auto"
    seed: int = 0
    hf_overrides: Mapping[str, Any] | Callable[[Any], Any] | None = field(default_factory=dict)
    generation_config: str = "auto"
    override_generation_config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    block_size: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    scheduling_policy: str = "longest_first"
    enable_pacing: bool = True
    enable_admission_control: bool = True
    preemption_mode: str = "recompute"
    swap_space: float = 4.0
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    batch_invariant: bool = True
    enforce_eager: bool = False
    async_scheduling: bool = True
    disable_cascade_attn: bool = False
    concurrent_attention: bool = False
    skinny_gemm: bool = True
    fused_gate: bool = True
    split_prefill: bool = True
    programmatic_launch: bool = True
    speculative_config: Mapping[str, Any] | None = None
    device: str = "auto"
    skip_tokenizer_init: bool = False
    enable_prompt_embeds: bool = False

    def __post_init__(self) -> None:
        self.check_peer_args()
        dtype = str(self.dtype).removeprefix("torch.")
        object.__setattr__(self, "dtype", OTHER_DTYPES.get(dtype, dtype))
        for name in OPTIONAL_FLAGS:
            if getattr(self, name) is None:
                object.__setattr__(self, name, True)
        for name, allowed in (
            ("dtype", DTYPES),
            ("load_format", LOAD_FORMATS),
            ("scheduling_policy", POLICIES),
            ("preemption_mode", PREEMPTION_MODES),
            ("device", DEVICES),
            ("runner", ("auto", "generate", "pooling")),
        ):
            if getattr(self, name) not in allowed:
                raise ParameterError(name, getattr(self, name), f"one of {', '.join(allowed)}")
        self._check_numbers()
        self._check_overrides()
        read_speculative_config(self.speculative_config)
        for name, kind in FLAGS.items():
            if not isinstance(getattr(self, name), kind):
                raise ParameterError(name, getattr(self, name), f"of type {kind.__name__}")

    def _check_overrides(self) -> None:
        if self.hf_overrides is None:
            object.__setattr__(self, "hf_overrides", {})
        overrides: object = self.hf_overrides
        if not isinstance(overrides, Mapping) and not callable(overrides):
            raise ParameterError("hf_overrides", overrides, "a mapping of config entries, or a function")
        check_generation_overrides(self.override_generation_config)
        for name in ("generation_config", "chat_template"):
            value = getattr(self, name)
            if not isinstance(value, (str, PurePath)) and not (name == "chat_template" and value is None):
                raise ParameterError(name, value, "text")
            object.__setattr__(self, name, None if value is None else str(value))

    def _check_numbers(self) -> None:
        for name in ("max_model_len", "max_num_batched_tokens", "max_num_seqs", "kv_cache_memory_bytes"):
            value = getattr(self, name)
            if value is not None and (not _is_int(value) or value < 1):
                raise ParameterError(name, value, "an integer of at least 1, or None")
        if not _is_int(self.seed):
            raise ParameterError("seed", self.seed, "an integer")
        if self.block_size is not None and self.block_size not in BLOCK_SIZES:
            raise ParameterError("block_size", self.block_size, f"one of {', '.join(map(str, BLOCK_SIZES))}")
        if not _is_number(self.swap_space) or self.swap_space < 0:
            raise ParameterError("swap_space", self.swap_space, "a number of GiB from 0")
        share = self.gpu_memory_utilization
        if not _is_number(share) or not 0 < share <= 1:
            raise ParameterError("gpu_memory_utilization", share, "a number above 0 and at most 1")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
