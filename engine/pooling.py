"""Embedding requests from arrival to output."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from engine.costs import EncoderCosts, StepGroups
from engine.model.encoder import Encoder
from engine.outputs import Embedding, EmbeddingRequestOutput, RequestMetrics
from engine.params import PoolingParams
from engine.stats import EngineStats, TimelinePoint
from engine.text.inputs import Input, InputError
from engine.text.tokenizer import Tokenizer
from engine.timeline import Timeline
from engine.token_checks import check_vocabulary


@dataclass(frozen=True)
class _Waiting:
    request_id: str
    prompt: Input
    params: PoolingParams
    arrival: float
    queued: float


class PoolingCore:
    """Embeds prompts in batches of at most ``max_tokens`` tokens and ``max_seqs`` sequences, in order of arrival."""

    def __init__(
        self, encoder: Encoder, max_model_len: int, max_tokens: int, max_seqs: int, tokenizer: Tokenizer | None
    ) -> None:
        self.encoder = encoder
        self.max_model_len = max_model_len
        self.tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._max_seqs = max_seqs
        self._queue: deque[_Waiting] = deque()
        self._ready = time.monotonic()
        self._timeline = Timeline()
        self._costs = EncoderCosts.of(encoder.spec, encoder.words.dtype.itemsize)
        self._groups = StepGroups()
        self._totals = EngineStats()

    @property
    def unfinished(self) -> int:
        """Prompts that are not embedded yet."""
        return len(self._queue)

    @property
    def window(self) -> int:
        """Prompts worth holding at once."""
        return 2 * self._max_seqs

    def add(self, request_id: str, prompt: Input, params: PoolingParams, *, arrival: float | None = None) -> None:
        """Queue a prompt; ``arrival`` is when the engine was asked, on ``time.monotonic``'s clock (``None``: now).

        Raises:
            InputError: it is empty or too long, or more dimensions are asked for than the model has.
        """
        side = "right" if self.tokenizer is None else self.tokenizer.truncation_side
        prompt = prompt.kept(params.truncate_prompt_tokens, self.max_model_len, side)
        if prompt.embeds is not None:
            raise InputError("prompt_embeds goes with generation only: a pooling model reads tokens")
        tokens, vocab, hidden = prompt.token_ids, self.encoder.spec.vocab_size, self.encoder.spec.hidden_size
        if not tokens:
            raise InputError("the prompt is empty: it must have at least one token")
        if len(tokens) > self.max_model_len:
            raise InputError(f"the prompt has {len(tokens)} tokens; max_model_len={self.max_model_len} is the most")
        check_vocabulary("prompt token", tokens, vocab)
        if params.dimensions is not None and params.dimensions > hidden:
            raise InputError(f"dimensions={params.dimensions} is more than the model's {hidden}")
        now = time.monotonic()
        self._queue.append(_Waiting(request_id, prompt, params, now if arrival is None else arrival, now))

    def step(self) -> list[EmbeddingRequestOutput]:
        """Embed one batch."""
        batch = self._take()
        if not batch:
            return []
        start = time.monotonic()
        with torch.inference_mode():
            pooled = self.encoder([item.prompt.token_ids for item in batch])
        now = time.monotonic()
        self._count(batch, now, now - start)
        return [
            EmbeddingRequestOutput(
                request_id=item.request_id,
                outputs=Embedding(_finish(vector, item.params)),
                prompt_token_ids=list(item.prompt.token_ids),
                metrics=RequestMetrics(item.arrival, start, now, now, queued=item.queued),
            )
            for item, vector in zip(batch, pooled, strict=True)
        ]

    def abort(self, request_id: str) -> EmbeddingRequestOutput | None:
        """Drop a prompt that waits; gives an output that says so, ``None`` where no prompt of this id waits."""
        item = next((item for item in self._queue if item.request_id == request_id), None)
        if item is None:
            return None
        self._queue.remove(item)
        ids = list(item.prompt.token_ids)
        return EmbeddingRequestOutput(request_id, Embedding([]), ids, error="the request was aborted")

    def abort_all(self) -> None:
        """Drop every waiting prompt."""
        self._queue.clear()

    def stats(self) -> EngineStats:
        """Totals and the present state."""
        return replace(
            self._totals, waiting=len(self._queue), step_groups=self._groups.groups(), timeline=self._timeline.points()
        )

    def reset_prefix_cache(self) -> None:
        """Nothing to forget: an encoder keeps no cache."""

    def describe(self) -> Mapping[str, str]:
        """What the vectors depend on beside the recipe."""
        dtype = str(self.encoder.words.dtype).removeprefix("torch.")
        return {"device": self.encoder.device.type, "dtype": dtype, "torch": torch.__version__}

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        tokens = 0
        while self._queue and len(batch) < self._max_seqs:
            tokens += len(self._queue[0].prompt.token_ids)
            if batch and tokens > self._max_tokens:
                break
            batch.append(self._queue.popleft())
        return batch

    def _count(self, batch: list[_Waiting], now: float, seconds: float) -> None:
        lengths = [len(item.prompt.token_ids) for item in batch]
        tokens, cost, old = sum(lengths), self._costs.step(lengths), self._totals
        self._totals = replace(
            old,
            steps=old.steps + 1,
            prompt_tokens=old.prompt_tokens + tokens,
            computed_tokens=old.computed_tokens + tokens,
            finished_requests=old.finished_requests + len(batch),
            peak_running=max(old.peak_running, len(batch)),
            busy_seconds=old.busy_seconds + seconds,
            flops=old.flops + cost.flops,
            bytes=old.bytes + cost.bytes,
        )
        self._groups.add(cost, seconds)
        self._timeline.add(TimelinePoint(now - self._ready, len(batch), len(self._queue), 0.0, 0))


def _finish(vector: torch.Tensor, params: PoolingParams) -> list[float]:
    """Cut to the wanted dimensions, then scale to length 1 where asked."""
    vector = vector[: params.dimensions]
    return (F.normalize(vector, dim=0) if params.normalizes else vector).tolist()
