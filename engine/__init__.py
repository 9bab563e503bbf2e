"""Galley's inference engine: ``from engine import LLM, SamplingParams`` as in a vLLM script.

Importing this package is light; torch is imported when the first ``LLM`` is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.args import EngineArgs
from engine.errors import EngineDeadError, UnsupportedOptionError
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
    EmbedsPrompt,
    ParameterError,
    PoolingParams,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
    TextPrompt,
    TokensPrompt,
)
from engine.params import Prompt as PromptType
from engine.stats import EngineStats

# vLLM's other names.
AsyncEngineArgs = EngineArgs
EmbeddingOutput = Embedding

if TYPE_CHECKING:
    from engine.async_llm import AsyncLLM
    from engine.async_llm import AsyncLLM as AsyncLLMEngine
    from engine.flat_logprobs import FlatLogprobs
    from engine.llm import LLM
    from engine.sleep import AsleepError
    from engine.text.inputs import InputError

__all__ = [
    "LLM",
    "AsleepError",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "ChatMessage",
    "CompletionOutput",
    "Embedding",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EmbedsPrompt",
    "EngineArgs",
    "EngineDeadError",
    "EngineStats",
    "FlatLogprobs",
    "InputError",
    "Logprob",
    "ParameterError",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "PromptType",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "ToolCall",
    "UnsupportedOptionError",
]

# Imported when they are first asked for: what they need takes long to import.
_LATER = {
    "LLM": ("engine.llm", "LLM"),
    "AsyncLLM": ("engine.async_llm", "AsyncLLM"),
    "AsyncLLMEngine": ("engine.async_llm", "AsyncLLM"),
    "FlatLogprobs": ("engine.flat_logprobs", "FlatLogprobs"),
    "InputError": ("engine.text.inputs", "InputError"),
    "AsleepError": ("engine.sleep", "AsleepError"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    module, attribute = _LATER[name]
    return getattr(import_module(module), attribute)
