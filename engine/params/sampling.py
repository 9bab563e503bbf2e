"""Sampling parameters of one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from engine.params.checks import check, check_truncation, is_int, is_list, is_number
from engine.params.structured import StructuredOutputsParams, structured

GREEDY_BELOW = 1e-5  # temperatures under this are greedy: dividing by them would overflow

FLAGS = (
    "ignore_eos", "include_stop_str_in_output", "flat_logprobs", "detokenize", "skip_special_tokens",
    "spaces_between_special_tokens",
)  # fmt: skip

# Fields that ``from_optional`` gives their defaults for None; for the others None has a meaning of its own.
NEVER_NONE = (
    "n", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "top_p", "top_k", "min_p",
    "min_tokens", "output_kind", *FLAGS,
)  # fmt: skip


class RequestOutputKind(StrEnum):
    """What a stream gives while a request runs; ``LLM.generate`` gives finished outputs whatever this says."""

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    FINAL_ONLY = "final_only"


@dataclass(kw_only=True)
class SamplingParams:
    """How the tokens of one request are drawn and when it ends. Names and defaults follow vLLM.

    Processing order of a step's fp32 logits: allowed ids, ``min_tokens`` mask, ``logit_bias``, penalties,
    ``bad_words``, the mask of structured outputs, temperature, ``min_p``, ``top_k``, ``top_p``, then the draw.
    Log-probabilities are those of the unprocessed distribution.

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
        seed: noise of this request; ``None`` derives it from the engine seed and the request's index, -1 is ``None``.
        stop: strings that end the output; the earliest match wins and is cut from the text. Read as a list, also where
            one string or none was given.
        stop_token_ids: ids that end the output; they stay in ``token_ids`` and out of the text. Read as a list.
        include_stop_str_in_output: keep the matched stop string in the text.
        logprobs: so many likeliest tokens per step, besides the sampled one; -1 is the whole vocabulary.
        prompt_logprobs: the same for the prompt's tokens.
        flat_logprobs: give log-probabilities as ``FlatLogprobs``, arrays instead of one object per token.
        detokenize: produce ``text``.
        skip_special_tokens: leave special tokens out of the text.
        spaces_between_special_tokens: put spaces between special tokens in the text.
        logit_bias: added to the logits of these token ids, -100 to 100 each.
        allowed_token_ids: only these may be drawn.
        bad_words: texts whose last token is not drawn where it would complete them.
        structured_outputs: the form that the output must have.
        output_kind: what a stream gives while the request runs.
        truncate_prompt_tokens: keep only so many tokens at the prompt's end; -1 keeps what the model can take.

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
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    structured_outputs: StructuredOutputsParams | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    truncate_prompt_tokens: int | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Change a field, as vLLM's scripts do; a value that is not allowed leaves it as it was."""
        if "_checked" not in self.__dict__:
            object.__setattr__(self, name, value)
            return
        if name not in self.__dataclass_fields__:
            raise AttributeError(f"SamplingParams has no field {name!r}")
        changed = replace(self, **{name: value})
        self.__dict__.update(changed.__dict__)

    @classmethod
    def from_optional(cls, **given: Any) -> SamplingParams:
        """Parameters from what an API's request has: vLLM's name for fields where ``None`` may stand for the default.

        Values of ``logit_bias`` beyond -100 and 100 become these.

        Examples:
            >>> SamplingParams.from_optional(temperature=None, top_p=0.5, logit_bias={"7": 250}).logit_bias
            {7: 100.0}
        """
        kept = {name: value for name, value in given.items() if value is not None or name not in NEVER_NONE}
        if isinstance(kept.get("logit_bias"), Mapping):
            bias = kept["logit_bias"].items()
            kept["logit_bias"] = {key: min(100.0, max(-100.0, value)) for key, value in bias}
        return cls(**kept)

    def clone(self) -> SamplingParams:
        """A copy that shares nothing with the original.

        Examples:
            >>> first = SamplingParams(stop=["a"])
            >>> second = first.clone()
            >>> second.stop.append("b")
            >>> first.stop
            ['a']
        """
        return deepcopy(self)

    def __post_init__(self) -> None:
        # Two forms of vLLM's: an OpenAI request's "yes, log-probabilities", and "no seed".
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is True:
                object.__setattr__(self, name, 1)
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        check(is_int(self.n) and self.n >= 1, "n", self.n, "an integer of at least 1")
        check(
            self.max_tokens is None or (is_int(self.max_tokens) and self.max_tokens >= 1),
            "max_tokens",
            self.max_tokens,
            "an integer of at least 1, or None for the model's end",
        )
        check(is_int(self.min_tokens) and self.min_tokens >= 0, "min_tokens", self.min_tokens, "an integer from 0")
        check(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            self.min_tokens,
            f"at most max_tokens={self.max_tokens}",
        )
        self._check_ranges()
        self._check_stops()
        self._check_tokens()
        self._check_forms()
        check(not (self.n > 1 and self.greedy), "n", self.n, "1 when temperature is 0: greedy children would be equal")
        object.__setattr__(self, "_checked", True)

    def _check_ranges(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            check(is_number(value) and -2 <= value <= 2, name, value, "a number from -2 to 2")
        check(
            is_number(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty",
            self.repetition_penalty,
            "a number above 0",
        )
        check(is_number(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more")
        check(is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        check(is_int(self.top_k) and self.top_k >= -1, "top_k", self.top_k, "an integer from -1 (0 and -1: all)")
        check(is_number(self.min_p) and 0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 to 1")
        check(self.seed is None or is_int(self.seed), "seed", self.seed, "an integer or None")
        for name in FLAGS:
            check(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            check(value is None or (is_int(value) and value >= -1), name, value, "an integer from -1 (all), or None")

    def _check_stops(self) -> None:
        check(
            self.stop is None or isinstance(self.stop, str) or is_list(self.stop),
            "stop",
            self.stop,
            "a string, a list of strings, or None",
        )
        stops = [self.stop] if isinstance(self.stop, str) else list(self.stop or ())
        check(all(isinstance(s, str) and s for s in stops), "stop", self.stop, "non-empty strings")
        check(not stops or self.detokenize, "detokenize", self.detokenize, "True when stop strings are given")
        given = self.stop_token_ids
        check(given is None or is_list(given), "stop_token_ids", given, "a list of token ids, or None")
        ids = list(given or ())
        check(all(is_int(i) and i >= 0 for i in ids), "stop_token_ids", self.stop_token_ids, "token ids from 0")
        object.__setattr__(self, "stop", stops)
        object.__setattr__(self, "stop_token_ids", ids)

    def _check_tokens(self) -> None:
        check(
            self.logit_bias is None or isinstance(self.logit_bias, Mapping),
            "logit_bias",
            self.logit_bias,
            "a mapping from token id to bias, or None",
        )
        # JSON writes mappings with text keys.
        bias = {_token_id(key): value for key, value in (self.logit_bias or {}).items()}
        check(
            all(is_int(key) and key >= 0 and is_number(value) and abs(value) <= 100 for key, value in bias.items()),
            "logit_bias",
            self.logit_bias,
            "token ids from 0, each with a number from -100 to 100",
        )
        allowed = self.allowed_token_ids
        check(
            allowed is None or (is_list(allowed) and len(allowed) > 0 and all(is_int(i) and i >= 0 for i in allowed)),
            "allowed_token_ids",
            allowed,
            "a list of at least one token id from 0, or None",
        )
        words = self.bad_words
        check(
            words is None or (is_list(words) and all(isinstance(word, str) and word.strip() for word in words)),
            "bad_words",
            words,
            "a list of strings with more than spaces, or None",
        )
        object.__setattr__(self, "logit_bias", bias or None)

    def _check_forms(self) -> None:
        object.__setattr__(self, "structured_outputs", structured(self.structured_outputs))
        kinds = [kind.value for kind in RequestOutputKind]
        check(self.output_kind in kinds, "output_kind", self.output_kind, f"one of {', '.join(kinds)}")
        object.__setattr__(self, "output_kind", RequestOutputKind(self.output_kind))
        check_truncation(self.truncate_prompt_tokens)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings of ``stop``."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def filters(self) -> bool:
        """Whether min_p, top_k or top_p may leave tokens out."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @property
    def has_penalties(self) -> bool:
        """Whether the request's own tokens change its logits."""
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != (0.0, 0.0, 1.0)


def _token_id(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def taken(params: SamplingParams) -> SamplingParams:
    """A copy for the engine, which the caller's later changes do not reach.

    Raises:
        ParameterError: a list was changed after it had been checked, to something that is not allowed.
    """
    lists = (params.stop, params.stop_token_ids, params.logit_bias, params.allowed_token_ids, params.bad_words)
    return replace(params) if any(lists) else copy(params)
