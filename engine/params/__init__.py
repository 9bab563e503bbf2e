"""What a caller asks of one request: sampling, structure, search and pooling; all checked at construction."""

from __future__ import annotations

from engine.params.beam import BeamSearchParams
from engine.params.checks import ParameterError
from engine.params.pooling import PoolingParams
from engine.params.prompts import EmbedsPrompt, Prompt, TextPrompt, TokensPrompt
from engine.params.sampling import GREEDY_BELOW, RequestOutputKind, SamplingParams
from engine.params.structured import StructuredOutputsParams

__all__ = [
    "GREEDY_BELOW",
    "BeamSearchParams",
    "EmbedsPrompt",
    "ParameterError",
    "PoolingParams",
    "Prompt",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
]
