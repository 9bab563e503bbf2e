"""Galley's inference engine: ``from engine import LLM, SamplingParams`` as in a vLLM script.

Importing this package is light; torch is imported when the first ``LLM`` is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from engine.params import BeamSearchParams, ParameterError, PoolingParams, SamplingParams, StructuredOutputsParams
from engine.stats import EngineStats

if TYPE_CHECKING:
    from engine.llm import LLM

__all__ = [
    "LLM",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "ChatMessage",
    "CompletionOutput",
    "Embedding",
    "EmbeddingRequestOutput",
    "EngineStats",
    "Logprob",
    "ParameterError",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "ToolCall",
]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from engine.llm import LLM

        return LLM
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
