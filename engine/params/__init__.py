"""What a caller asks of one request: sampling, structure, search and pooling; all checked at construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.params.beam import BeamSearchParams
from engine.params.checks import ParameterError
from engine.params.pooling import PoolingParams
from engine.params.sampling import GREEDY_BELOW, RequestOutputKind, SamplingParams
from engine.params.structured import StructuredOutputsParams

__all__ = [
    "GREEDY_BELOW",
    "BeamSearchParams",
    "ParameterError",
    "PoolingParams",
    "Prompt",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
]

Prompt = str | Sequence[int] | dict[str, Any]
"""Text, token ids, or a mapping with one of ``prompt``, ``prompt_token_ids``, ``messages``: see engine.text.inputs."""
