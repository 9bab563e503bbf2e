"""An engine without a model: the interface of ``engine.LLM``, made-up outputs, declared speeds.

It tests and times everything around the engine. Outputs depend on prompt and parameters alone, as the real engine's do.
"""

from __future__ import annotations

import heapq
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from engine.outputs import CompletionOutput, Embedding, EmbeddingRequestOutput, RequestMetrics, RequestOutput
from engine.params import PoolingParams, Prompt, SamplingParams
from engine.stats import EngineStats

Output = RequestOutput | EmbeddingRequestOutput
Params = SamplingParams | PoolingParams
WORDS = ("paged", "cache", "token", "batch", "row", "step", "block", "queue")
EMBEDDING_SIZE = 8
BYTES_PER_TOKEN = 4  # of a text prompt: nothing is tokenized


@dataclass(order=True, slots=True)
class _Running:
    """A request that ends with step ``end``."""

    end: int
    number: int
    prompt: Any = field(compare=False)
    prompt_tokens: int = field(compare=False)
    length: int = field(compare=False)
    params: Params = field(compare=False)
    arrival: float = field(compare=False)
    digest: int = field(compare=False)


class NullLLM:
    """Pretends to run up to ``max_num_seqs`` requests, each of which gets one token per step.

    Args:
        startup_seconds: how long building it takes.
        seconds_per_step: how long a step takes; 0 does not wait.
        max_num_seqs: requests in one step, and so how far the prompts are read ahead.
        max_model_len: longer prompts end as error outputs; ``None`` takes any.
        fail_after: raise RuntimeError after so many outputs; ``None`` never does.
    """

    def __init__(
        self,
        startup_seconds: float = 0.0,
        seconds_per_step: float = 0.0,
        max_num_seqs: int = 256,
        max_model_len: int | None = None,
        fail_after: int | None = None,
    ) -> None:
        time.sleep(startup_seconds)
        self._startup = startup_seconds
        self._seconds_per_step = seconds_per_step
        self._max_num_seqs = max_num_seqs
        self._max_model_len = max_model_len
        self._fail_after = fail_after
        self._steps = self._finished = self._prompt_tokens = self._output_tokens = self._peak = 0
        self._running: list[_Running] = []

    def __enter__(self) -> NullLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget all requests."""
        self._running.clear()

    def stream(self, prompts: Iterable[Prompt], params: Params | Iterable[Params] | None = None) -> Iterator[Output]:
        """Each prompt's output as it finishes; at most ``max_num_seqs`` prompts are read ahead.

        Raises:
            RuntimeError: ``fail_after`` outputs are out.
        """
        single = params if isinstance(params, (SamplingParams, PoolingParams)) else None
        each = repeat(single or SamplingParams()) if params is None or single else iter(params)  # type: ignore[arg-type]
        pairs = enumerate(zip(prompts, each, strict=False))
        more = True
        while more or self._running:
            while more and len(self._running) < self._max_num_seqs:
                pair = next(pairs, None)
                if pair is None:
                    more = False
                    break
                bad = self._add(pair[0], *pair[1])
                if bad is not None:
                    yield bad
            self._peak = max(self._peak, len(self._running))
            yield from self._step()

    def _add(self, number: int, prompt: Prompt, params: Params) -> Output | None:
        arrival = time.monotonic()
        digest, tokens = _read(prompt)
        error = None
        if tokens == 0:
            error = "the prompt is empty"
        elif self._max_model_len is not None and tokens >= self._max_model_len:
            error = f"the prompt has {tokens} tokens and max_model_len is {self._max_model_len}"
        if error is not None:
            return _failure(number, params, RequestMetrics(arrival), error)
        length = _length(params, digest)
        end = self._steps + max(length, 1)
        heapq.heappush(self._running, _Running(end, number, prompt, tokens, length, params, arrival, digest))
        return None

    def _step(self) -> Iterator[Output]:
        """Go on to the next step in which a request ends, and yield all that end with it."""
        if not self._running:
            return
        ahead = self._running[0].end - self._steps
        if self._seconds_per_step > 0:
            time.sleep(ahead * self._seconds_per_step)
        self._steps += ahead
        while self._running and self._running[0].end <= self._steps:
            if self._fail_after is not None and self._finished >= self._fail_after:
                raise RuntimeError(f"the null engine fails after {self._fail_after} outputs, as it was told")
            yield self._finish(heapq.heappop(self._running))

    def _finish(self, request: _Running) -> Output:
        now = time.monotonic()
        self._finished += 1
        self._prompt_tokens += request.prompt_tokens
        self._output_tokens += request.length
        if isinstance(request.params, PoolingParams):
            metrics = RequestMetrics(request.arrival, request.arrival, None, now)
            return EmbeddingRequestOutput(
                str(request.number), Embedding(_vector(request)), range(request.prompt_tokens), metrics=metrics
            )
        first = max(now - (request.length - 1) * self._seconds_per_step, request.arrival)
        metrics = RequestMetrics(request.arrival, request.arrival, first, now)
        completions = tuple(_completion(request, request.params, child) for child in range(request.params.n))
        return RequestOutput(
            str(request.number), None, range(request.prompt_tokens), completions, metrics=metrics, num_cached_tokens=0
        )

    def stats(self) -> EngineStats:
        """Totals so far."""
        return EngineStats(
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            computed_tokens=self._prompt_tokens + self._output_tokens,
            output_tokens=self._output_tokens,
            finished_requests=self._finished,
            running=len(self._running),
            peak_running=self._peak,
            busy_seconds=self._steps * self._seconds_per_step,
            startup={"load": self._startup},
            device={"name": "null engine"},
        )


def _read(prompt: Prompt) -> tuple[int, int]:
    """A digest of the prompt, and its tokens: one for each id, or for every four bytes of text."""
    if isinstance(prompt, Mapping):
        prompt = prompt.get("prompt_token_ids") or prompt.get("prompt") or json.dumps(prompt.get("messages"))
    data = prompt.encode() if isinstance(prompt, str) else repr(list(prompt)).encode()
    tokens = -(-len(data) // BYTES_PER_TOKEN) if isinstance(prompt, str) else len(prompt)
    return zlib.crc32(data), tokens


def _length(params: Params, digest: int) -> int:
    if isinstance(params, PoolingParams):
        return 0
    most = params.max_tokens or 16
    return most if params.ignore_eos else max(params.min_tokens, 1 + digest % most)


def _completion(request: _Running, params: SamplingParams, child: int) -> CompletionOutput:
    start = request.digest + child
    ids: Sequence[int] = range(start % 30000, start % 30000 + request.length)
    text = " ".join(WORDS[token % len(WORDS)] for token in ids) if params.detokenize else ""
    reason = "length" if params.max_tokens == request.length else "stop"
    return CompletionOutput(child, f"{request.digest:08x} {text}", ids, finish_reason=reason)


def _vector(request: _Running) -> list[float]:
    return [((request.digest >> shift) & 15) / 16 for shift in range(0, 4 * EMBEDDING_SIZE, 4)]


def _failure(number: int, params: Params, metrics: RequestMetrics, error: str) -> Output:
    if isinstance(params, PoolingParams):
        return EmbeddingRequestOutput(str(number), Embedding(()), metrics=metrics, error=error)
    return RequestOutput(str(number), None, (), (), metrics=metrics, error=error)
