"""What a request gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.message import ChatMessage


@dataclass(frozen=True)
class Logprob:
    """One token's log-probability under the model's unprocessed distribution; ``rank`` counts from 1."""

    logprob: float
    rank: int
    decoded_token: str | None = None


TokenLogprobs = Mapping[int, Logprob]


@dataclass(frozen=True)
class RequestMetrics:
    """Times of one request in seconds on ``time.monotonic``'s clock; ``None`` where the moment never came.

    ``arrival``: the engine was asked; ``queued``: the prompt was tokenized and checked, and waits for the scheduler.
    """

    arrival: float
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    preemptions: int = 0
    queued: float | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token is None else self.first_token - self.arrival

    @property
    def e2e(self) -> float | None:
        """Seconds from arrival to the last token."""
        return None if self.last_token is None else self.last_token - self.arrival


@dataclass(frozen=True)
class CompletionOutput:
    """One completion. ``finish_reason``: stop, length, abort or error; ``stop_reason``: the string or id that stopped
    it, ``None`` for end of sequence. ``message`` is the text taken apart, where a chat asks for a parser."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: Sequence[TokenLogprobs] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    message: ChatMessage | None = None
    lora_request: None = None

    def finished(self) -> bool:
        """Whether nothing follows."""
        return self.finish_reason is not None


@dataclass(frozen=True)
class RequestOutput:
    """The result of one generation request, or with ``finished`` unset what a stream has of it so far.

    A request that could not run has ``error`` set and no outputs. ``lora_request`` is ``None``: there are none yet.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: Sequence[int]
    outputs: Sequence[CompletionOutput]
    finished: bool = True
    prompt_logprobs: Sequence[TokenLogprobs | None] | None = None
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    error: str | None = None
    lora_request: None = None


@dataclass(frozen=True)
class Embedding:
    """One pooled vector of ``hidden_size`` values, or of ``PoolingParams.dimensions`` where given."""

    embedding: Sequence[float]

    @property
    def hidden_size(self) -> int:
        """How many values."""
        return len(self.embedding)


@dataclass(frozen=True)
class EmbeddingRequestOutput:
    """The result of one embedding request. A request that could not run has ``error`` set and an empty vector."""

    request_id: str
    outputs: Embedding
    prompt_token_ids: Sequence[int] = field(default_factory=list)
    finished: bool = True
    metrics: RequestMetrics | None = None
    error: str | None = None
    num_cached_tokens: int = 0


@dataclass(frozen=True)
class PoolingOutput:
    """What a pooling model makes of a prompt: ``data`` is a float32 tensor [values]."""

    data: Any


@dataclass(frozen=True)
class PoolingRequestOutput:
    """The result of one request to ``LLM.encode``. One that could not run has ``error`` set and an empty tensor."""

    request_id: str
    outputs: PoolingOutput
    prompt_token_ids: Sequence[int] = field(default_factory=list)
    finished: bool = True
    metrics: RequestMetrics | None = None
    error: str | None = None
    num_cached_tokens: int = 0


@dataclass(frozen=True)
class BeamSearchSequence:
    """One continuation of a beam search: ``tokens`` and ``text`` begin with the prompt, as in vLLM.

    ``cum_logprob`` sums the log-probabilities of the new tokens, ``score`` is that over the length to the power of the
    length penalty; ``logprobs`` has the candidates at each new token. ``finish_reason``: stop at an
    end-of-sequence id, else length.
    """

    tokens: Sequence[int]
    text: str | None
    cum_logprob: float
    score: float
    logprobs: Sequence[TokenLogprobs]
    finish_reason: str
    stop_reason: int | str | None = None


@dataclass(frozen=True)
class BeamSearchOutput:
    """The likeliest continuations of one prompt, best first. One that could not run has ``error`` set and none."""

    sequences: Sequence[BeamSearchSequence]
    prompt_token_ids: Sequence[int] = field(default_factory=list)
    error: str | None = None
