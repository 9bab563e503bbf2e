"""Galley's inference engine: ``from engine import LLM, SamplingParams`` as in a vLLM script.

Importing this package is light; torch is imported when the first ``LLM`` is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.args import EngineArgs
from engine.errors import EngineDeadError
from engine.outputs import (
    CompletionOutput,
    Embedding,
    EmbeddingRequestOutput,
    Logprob,
    RequestMetrics,
    RequestOutput,
)
from engine.params import ParameterError, PoolingParams, RequestOutputKind, SamplingParams
from engine.stats import EngineStats

AsyncEngineArgs = EngineArgs  # vLLM's name for what its asynchronous engine takes

if TYPE_CHECKING:
    from engine.async_llm import AsyncLLM
    from engine.async_llm import AsyncLLM as AsyncLLMEngine
    from engine.llm import LLM

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "CompletionOutput",
    "Embedding",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "EngineDeadError",
    "EngineStats",
    "Logprob",
    "ParameterError",
    "PoolingParams",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from engine.llm import LLM

        return LLM
    if name in ("AsyncLLM", "AsyncLLMEngine"):
        from engine.async_llm import AsyncLLM

        return AsyncLLM
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
