"""What both null engines make up: how long a request takes, and what comes out. Prompt and parameters decide alone."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.outputs import CompletionOutput, Embedding, EmbeddingRequestOutput, RequestMetrics, RequestOutput
from engine.params import PoolingParams, Prompt, SamplingParams

Output = RequestOutput | EmbeddingRequestOutput
Params = SamplingParams | PoolingParams
WORDS = ("paged", "cache", "token", "batch", "row", "step", "block", "queue")
EMBEDDING_SIZE = 8
BYTES_PER_TOKEN = 4  # of a text prompt: nothing is tokenized


@dataclass(frozen=True)
class Speeds:
    """Declared service times in seconds: before the first token for each request and each prompt token, then for each
    output token, the first included."""

    seconds_per_request: float = 0.0
    seconds_per_prompt_token: float = 0.0
    seconds_per_step: float = 0.0

    @property
    def instant(self) -> bool:
        """Whether nothing takes any time."""
        return not (self.seconds_per_request or self.seconds_per_prompt_token or self.seconds_per_step)

    def until_token(self, work: Work, number: int) -> float:
        """From a request's start to its output token of this number, from 1; 0 is the end of the prompt."""
        prompt = self.seconds_per_request + work.prompt_tokens * self.seconds_per_prompt_token
        return prompt + number * self.seconds_per_step

    def service(self, work: Work) -> float:
        """From a request's start to its end; an embedding takes a step."""
        return self.until_token(work, max(work.length, 1))


@dataclass(frozen=True, slots=True)
class Work:
    """A request as the null engines see it."""

    request_id: str
    params: Params
    prompt_tokens: int
    digest: int
    length: int

    @classmethod
    def of(cls, request_id: str, prompt: Prompt, params: Params) -> Work:
        """Read a prompt: a token for each id, or for every four bytes of text."""
        if isinstance(prompt, Mapping):
            prompt = prompt.get("prompt_token_ids") or prompt.get("prompt") or json.dumps(prompt.get("messages"))
        data = prompt.encode() if isinstance(prompt, str) else repr(list(prompt)).encode()
        tokens = -(-len(data) // BYTES_PER_TOKEN) if isinstance(prompt, str) else len(prompt)
        digest = zlib.crc32(data)
        return cls(request_id, params, tokens, digest, _length(params, digest))

    def problem(self, max_model_len: int | None) -> str | None:
        """Why it cannot run, if so."""
        if self.prompt_tokens == 0:
            return "the prompt is empty"
        if max_model_len is not None and self.prompt_tokens >= max_model_len:
            return f"the prompt has {self.prompt_tokens} tokens and max_model_len is {max_model_len}"
        return None

    def refused(self, metrics: RequestMetrics, error: str) -> Output:
        """The output in error."""
        if isinstance(self.params, PoolingParams):
            return EmbeddingRequestOutput(self.request_id, Embedding(()), metrics=metrics, error=error)
        return RequestOutput(self.request_id, None, (), (), metrics=metrics, error=error)

    def output(self, metrics: RequestMetrics, tokens: int | None = None) -> Output:
        """The output with its first tokens, ``None`` the finished one with all of them."""
        prompt = range(self.prompt_tokens)
        if isinstance(self.params, PoolingParams):
            return EmbeddingRequestOutput(self.request_id, Embedding(self._vector()), prompt, metrics=metrics)
        params = self.params
        made = tuple(self._completion(params, child, tokens) for child in range(params.n))
        return RequestOutput(
            self.request_id, None, prompt, made, finished=tokens is None, metrics=metrics, num_cached_tokens=0
        )

    def _completion(self, params: SamplingParams, child: int, tokens: int | None) -> CompletionOutput:
        start = self.digest + child
        ids: Sequence[int] = range(start % 30000, start % 30000 + (self.length if tokens is None else tokens))
        text = " ".join(WORDS[token % len(WORDS)] for token in ids) if params.detokenize else ""
        reason: Any = "length" if params.max_tokens == self.length else "stop"
        return CompletionOutput(
            child, f"{self.digest:08x} {text}", ids, finish_reason=reason if tokens is None else None
        )

    def _vector(self) -> list[float]:
        return [((self.digest >> shift) & 15) / 16 for shift in range(0, 4 * EMBEDDING_SIZE, 4)]


def _length(params: Params, digest: int) -> int:
    if isinstance(params, PoolingParams):
        return 0
    most = params.max_tokens or 16
    return most if params.ignore_eos else max(params.min_tokens, 1 + digest % most)
