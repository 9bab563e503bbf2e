"""What a step must at least compute and move, from the architecture and the step's slices alone.

The count is of the model, not of the kernels: whatever computes the step, it cannot do with less. So the time that a
machine with known ceilings needs for it is a floor under the step's time (the roofline, Williams et al. 2009).

Activations and logits are not counted: they can stay on chip. Work that was done twice (after a preemption, or for a
request that had already ended while the step ran) counts as often as it was done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.model.spec import DecoderSpec, EncoderSpec
from engine.schedule.plan import StepPlan

NORM_BYTES = 4  # of a norm's weight: they are kept in float32
GROUPS_PER_OCTAVE = 4  # groups of arithmetic intensity between one power of two and the next


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (two per multiply-add) and bytes to and from the device's memory."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class StepGroup:
    """Steps of about the same arithmetic intensity, added up; ``seconds`` is the time in which they ran.

    With F operations and B bytes per second, ``max(flops / F, bytes / B)`` of a group is at most the sum of its steps'
    own floors, and 4 % less than it at worst, where the machine's balance F / B lies within the group.
    """

    steps: int
    flops: int
    bytes: int
    seconds: float


class StepGroups:
    """Totals per group of arithmetic intensity: a few dozen numbers, however long the engine runs."""

    def __init__(self) -> None:
        self._groups: dict[int, StepGroup] = {}

    def add(self, cost: Cost, seconds: float) -> None:
        """One more step."""
        key = math.floor(GROUPS_PER_OCTAVE * math.log2(max(cost.flops, 1) / max(cost.bytes, 1)))
        old = self._groups.get(key) or StepGroup(0, 0, 0, 0.0)
        self._groups[key] = StepGroup(
            old.steps + 1, old.flops + cost.flops, old.bytes + cost.bytes, old.seconds + seconds
        )

    def groups(self) -> tuple[StepGroup, ...]:
        """All groups, those of the lowest intensity first."""
        return tuple(group for _, group in sorted(self._groups.items()))


@dataclass(frozen=True)
class DecoderCosts:
    """A decoder's costs per step, token, key and sampled row.

    With T tokens in the step, R rows that go through the output head, and for each sequence n new tokens after p
    computed ones, of which the new queries together see the last v (all of them without a sliding window):

        flops = T * token_flops + R * head_flops + key_flops * sum over queries of the keys that each sees
        bytes = layer_bytes + (head_bytes if R) + T * (embedding_bytes + key_bytes) + key_bytes * (sum of v - shared)

    Weights are read once per step, embedding rows once per token. A new key and its value are written once, an earlier
    one is read once per sequence and step; ``shared`` are the earlier tokens that several sequences have in common
    (the same cache blocks), which need not be read more than once.
    """

    token_flops: int
    head_flops: int
    key_flops: int
    layer_bytes: int
    head_bytes: int
    embedding_bytes: int
    key_bytes: int
    window: int

    @classmethod
    def of(cls, spec: DecoderSpec, weight_bytes: int, cache_bytes: int) -> DecoderCosts:
        """From the architecture, the bytes of a weight, and those of a cached value."""
        hidden, inner = spec.hidden_size, spec.intermediate_size
        query, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        matrices = hidden * (query + 2 * kv) + query * hidden + 3 * hidden * inner
        biases = spec.qkv_bias * (query + 2 * kv) + spec.output_bias * hidden + spec.mlp_bias * (2 * inner + hidden)
        norms = 2 * hidden + 2 * spec.head_dim * spec.qk_norm
        return cls(
            token_flops=2 * matrices * spec.layers,
            head_flops=2 * hidden * spec.vocab_size,
            key_flops=4 * query * spec.layers,  # a score and a weighted value, two operations per multiply-add each
            layer_bytes=spec.layers * ((matrices + biases) * weight_bytes + norms * NORM_BYTES) + hidden * NORM_BYTES,
            head_bytes=hidden * spec.vocab_size * weight_bytes,
            embedding_bytes=hidden * weight_bytes,
            key_bytes=2 * kv * spec.layers * cache_bytes,
            window=spec.sliding_window,
        )

    def step(self, plan: StepPlan, shared_tokens: int = 0) -> Cost:
        """One step's cost.

        Args:
            plan: what it computes.
            shared_tokens: tokens that stand in the cache once and belong to several sequences, counted once for each
                sequence but the first; at most all that are read is taken off.
        """
        tokens = rows = seen = read = 0
        drafts = plan.drafts
        for request, start, stop, samples, _ in plan.slices:
            new = stop - start
            if not new:  # it draws from another slice's logits
                continue
            tokens += new
            rows += samples
            if drafts and request in drafts:
                rows += len(drafts[request])
            if samples and new == 1 and not self.window:  # a decoding sequence, as nearly all are
                seen += stop
                read += start
                continue
            params = request.params
            if params.prompt_logprobs is not None:
                rows += max(0, min(stop, len(request.prompt) - 1) - start)
            if self.window:
                seen += seen_keys(start, stop, self.window)
                read += min(start, self.window - 1)
            else:
                seen += new * start + new * (new + 1) // 2
                read += start
        flops = tokens * self.token_flops + rows * self.head_flops + seen * self.key_flops
        moved = self.layer_bytes + (self.head_bytes if rows else 0) + tokens * (self.embedding_bytes + self.key_bytes)
        return Cost(flops, moved + max(0, read - shared_tokens) * self.key_bytes)


def seen_keys(start: int, stop: int, window: int) -> int:
    """Keys that the queries at positions ``start`` to ``stop`` see together: each the last ``window`` up to itself."""
    full = min(max(start, window - 1), stop)  # from here on every query sees a whole window
    growing = (full * (full + 1) - start * (start + 1)) // 2
    return growing + (stop - full) * window


@dataclass(frozen=True)
class EncoderCosts:
    """An encoder's costs per step and token.

        flops = token_flops * tokens + pair_flops * sum over sequences of length^2
        bytes = layer_bytes + tokens * embedding_bytes

    Attention is full, and nothing is cached. The position table is read at the sequences' positions, once per token.
    """

    token_flops: int
    pair_flops: int
    layer_bytes: int
    embedding_bytes: int

    @classmethod
    def of(cls, spec: EncoderSpec, weight_bytes: int) -> EncoderCosts:
        """From the architecture and the bytes of a weight."""
        hidden, inner = spec.hidden_size, spec.intermediate_size
        matrices = 4 * hidden * hidden + 2 * hidden * inner
        small = 4 * hidden + inner + hidden + 4 * hidden  # biases, then two norms' weights and biases
        return cls(
            token_flops=2 * matrices * spec.layers,
            pair_flops=4 * hidden * spec.layers,
            layer_bytes=(spec.layers * (matrices + small) + 2 * hidden) * weight_bytes,
            embedding_bytes=2 * hidden * weight_bytes,
        )

    def step(self, lengths: Sequence[int]) -> Cost:
        """The cost of embedding sequences of these lengths together."""
        tokens = sum(lengths)
        flops = tokens * self.token_flops + self.pair_flops * sum(length * length for length in lengths)
        return Cost(flops, self.layer_bytes + tokens * self.embedding_bytes)
