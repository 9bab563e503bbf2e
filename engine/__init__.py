"""Galley's inference engine: ``from engine import LLM, SamplingParams`` as in a vLLM script.

Importing this package is light; torch is imported when the first ``LLM`` is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.outputs import (
    CompletionOutput,
    Embedding,
    EmbeddingRequestOutput,
    Logprob,
    RequestMetrics,
    RequestOutput,
)
from engine.params import ParameterError, PoolingParams, SamplingParams
from engine.stats import EngineStats

if TYPE_CHECKING:
    from engine.flat_logprobs import FlatLogprobs
    from engine.llm import LLM

__all__ = [
    "LLM",
    "CompletionOutput",
    "Embedding",
    "EmbeddingRequestOutput",
    "EngineStats",
    "FlatLogprobs",
    "Logprob",
    "ParameterError",
    "PoolingParams",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from engine.llm import LLM

        return LLM
    if name == "FlatLogprobs":
        from engine.flat_logprobs import FlatLogprobs

        return FlatLogprobs
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
