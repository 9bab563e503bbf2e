"""What a caller asks of one request: sampling and pooling parameters, checked at construction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

GREEDY_BELOW = 1e-5  # temperatures under this are greedy: dividing by them would overflow


class ParameterError(ValueError):
    """A parameter outside its allowed range; the message names the field, the value and the range."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name}={value!r} is not allowed: {name} must be {allowed}")


def _check(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ParameterError(name, value, allowed)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the tokens of one request are drawn and when it ends. Names and defaults follow vLLM.

    Processing order of a step's fp32 logits: allowed ids and ``min_tokens`` mask, penalties, temperature, ``min_p``,
    ``top_k``, ``top_p``, then the draw. Log-probabilities are those of the unprocessed distribution.

    Args:
        n: completions per prompt; child ``i`` uses ``seed + i``. Greedy with ``n > 1`` is refused.
        max_tokens: most output tokens; ``None`` runs to the model's end.
        min_tokens: output tokens before any stop id or stop string may end the request.
        ignore_eos: go on past the end-of-sequence ids.
        presence_penalty: subtracted once from every token that the output holds, -2 to 2.
        frequency_penalty: subtracted for each time a token stands in the output, -2 to 2.
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt or output, above 0.
        temperature: 0 and up; below 1e-5 is greedy.
        top_p: keep the smallest set of tokens whose probability reaches this, in (0, 1].
        top_k: keep this many likeliest tokens; 0 or -1 keeps all.
        min_p: drop tokens less likely than this share of the likeliest, 0 to 1.
        seed: noise of this request; ``None`` derives it from the engine seed and the request's index.
        stop: strings that end the output; the earliest match wins and is cut from the text.
        stop_token_ids: ids that end the output; they stay in ``token_ids`` and out of the text.
        include_stop_str_in_output: keep the matched stop string in the text.
        logprobs: so many likeliest tokens per step, besides the sampled one; -1 is the whole vocabulary.
        prompt_logprobs: the same for the prompt's tokens.
        detokenize: produce ``text``.
        skip_special_tokens: leave special tokens out of the text.
        spaces_between_special_tokens: put spaces between special tokens in the text.

    Raises:
        ParameterError: a value is outside its range; the message names field, value and range.
    """

    n: int = 1
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    include_stop_str_in_output: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    stop_strings: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        _check(_is_int(self.n) and self.n >= 1, "n", self.n, "an integer of at least 1")
        _check(
            self.max_tokens is None or (_is_int(self.max_tokens) and self.max_tokens >= 1),
            "max_tokens",
            self.max_tokens,
            "an integer of at least 1, or None for the model's end",
        )
        _check(_is_int(self.min_tokens) and self.min_tokens >= 0, "min_tokens", self.min_tokens, "an integer from 0")
        _check(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            self.min_tokens,
            f"at most max_tokens={self.max_tokens}",
        )
        self._check_ranges()
        self._check_stops()
        _check(not (self.n > 1 and self.greedy), "n", self.n, "1 when temperature is 0: greedy children would be equal")

    def _check_ranges(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _check(_is_number(value) and -2 <= value <= 2, name, value, "a number from -2 to 2")
        _check(
            _is_number(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty",
            self.repetition_penalty,
            "a number above 0",
        )
        _check(_is_number(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _check(_is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _check(_is_int(self.top_k) and self.top_k >= -1, "top_k", self.top_k, "an integer from -1 (0 and -1: all)")
        _check(_is_number(self.min_p) and 0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 to 1")
        _check(self.seed is None or _is_int(self.seed), "seed", self.seed, "an integer or None")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _check(value is None or (_is_int(value) and value >= -1), name, value, "an integer from -1 (all), or None")

    def _check_stops(self) -> None:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        _check(all(isinstance(s, str) and s for s in stops), "stop", self.stop, "non-empty strings")
        _check(not stops or self.detokenize, "detokenize", self.detokenize, "True when stop strings are given")
        ids = tuple(self.stop_token_ids or ())
        _check(all(_is_int(i) and i >= 0 for i in ids), "stop_token_ids", self.stop_token_ids, "token ids from 0")
        object.__setattr__(self, "stop_strings", stops)
        object.__setattr__(self, "stop_token_ids", ids)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def has_penalties(self) -> bool:
        """Whether the request's own tokens change its logits."""
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != (0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class PoolingParams:
    """How one embedding is formed.

    Args:
        normalize: scale the vector to length 1.
        dimensions: keep only the first so many values (Matryoshka models), before normalising.
    """

    normalize: bool = True
    dimensions: int | None = None

    def __post_init__(self) -> None:
        _check(
            self.dimensions is None or (_is_int(self.dimensions) and self.dimensions >= 1),
            "dimensions",
            self.dimensions,
            "an integer of at least 1, or None",
        )


Prompt = str | Sequence[int] | dict[str, Any]
"""Text, token ids, or a mapping with one of ``prompt``, ``prompt_token_ids``, ``messages``: see engine.text.inputs."""
