"""Engine arguments of vLLM's for what Galley does not do, or always does: scripts pass them at their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import UnsupportedOptionError
from engine.params import ParameterError

# What is not offered: the values that ask for nothing, and what to do instead.
NOT_OFFERED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "quantization": ((None,), "weights are computed with in dtype; GGUF files are read and widened to it"),
    "kv_cache_dtype": (("auto",), "the cache has the model's dtype"),
    "cpu_offload_gb": ((0,), "the weights must fit the device: choose a smaller dtype or model"),
    "tensor_parallel_size": ((1,), "an engine runs on one device"),
    "pipeline_parallel_size": ((1,), "an engine runs on one device"),
    "data_parallel_size": ((1,), "an engine runs on one device: start one for each"),
    "distributed_executor_backend": ((None, "uni"), "an engine runs in this process"),
    "enable_lora": ((False, None), "merge the adapter into the model's weights"),
    "max_loras": ((1,), "merge the adapter into the model's weights"),
    "max_lora_rank": ((16,), "merge the adapter into the model's weights"),
    "limit_mm_per_prompt": ((None,), "models here read text only"),
    "tokenizer_mode": (("auto", "hf"), "tokenizers are transformers'"),
}
# Leave for what is done in any case, or never: either value gives the same engine.
PERMISSIONS = ("trust_remote_code", "enable_sleep_mode", "disable_log_stats")


@dataclass(frozen=True, kw_only=True)
class PeerArgs:
    """The arguments with vLLM's defaults, which ask for nothing; ``check_peer_args`` refuses any other value."""

    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    cpu_offload_gb: float = 0
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    distributed_executor_backend: str | None = None
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    limit_mm_per_prompt: Mapping[str, Any] | None = None
    tokenizer_mode: str = "auto"
    trust_remote_code: bool = False
    enable_sleep_mode: bool = False
    disable_log_stats: bool = True

    def check_peer_args(self) -> None:
        """Refuse what would have to be ignored.

        Raises:
            UnsupportedOptionError: an argument asks for what there is not.
            ParameterError: a permission that is neither given nor withheld.
        """
        for name, (neutral, instead) in NOT_OFFERED.items():
            value = getattr(self, name)
            none_each = isinstance(value, Mapping) and not any(value.values())  # limits of no image, no video
            if value not in neutral and not none_each:
                raise UnsupportedOptionError(f"{name}={value!r} is not supported: {instead}")
        for name in PERMISSIONS:
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(name, getattr(self, name), "of type bool")
