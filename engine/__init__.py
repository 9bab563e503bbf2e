"""Galley's inference engine: ``from engine import LLM, SamplingParams`` as in a vLLM script.

Importing this package is light; torch is imported when the first ``LLM`` is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.args import EngineArgs
from engine.errors import EngineDeadError
from engine.message import ChatMessage, ToolCall
from engine.outputs import (
    BeamSearchOutput,
    BeamSearchSequence,
    CompletionOutput,
    Embedding,
    EmbeddingRequestOutput,
    Logprob,
    PoolingOutput,
    PoolingRequestOutput,
    RequestMetrics,
    RequestOutput,
)
from engine.params import (
    BeamSearchParams,
    ParameterError,
    PoolingParams,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)
from engine.stats import EngineStats

AsyncEngineArgs = EngineArgs  # vLLM's name for what its asynchronous engine takes

if TYPE_CHECKING:
    from engine.async_llm import AsyncLLM
    from engine.async_llm import AsyncLLM as AsyncLLMEngine
    from engine.flat_logprobs import FlatLogprobs
    from engine.llm import LLM

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "ChatMessage",
    "CompletionOutput",
    "Embedding",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "EngineDeadError",
    "EngineStats",
    "FlatLogprobs",
    "Logprob",
    "ParameterError",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "ToolCall",
]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from engine.llm import LLM

        return LLM
    if name in ("AsyncLLM", "AsyncLLMEngine"):
        from engine.async_llm import AsyncLLM

        return AsyncLLM
    if name == "FlatLogprobs":
        from engine.flat_logprobs import FlatLogprobs

        return FlatLogprobs
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
