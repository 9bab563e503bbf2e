"""Mixed requests without end, each a pure function of its number, and the account of what became of them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from engine import RequestOutput, SamplingParams
from engine.text.inputs import Input

SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.7},
    {"temperature": 0.9, "top_k": 100, "top_p": 0.95, "min_p": 0.02},
)
ON_THE_HOST: tuple[dict[str, Any], ...] = (  # what makes the engine wait for a step's tokens
    {"logprobs": 0},
    {"logprobs": 3},
    {"repetition_penalty": 1.2},
    {"presence_penalty": 0.5, "frequency_penalty": 0.2},
    {"min_tokens": 4, "logprobs": 1},
    {"prompt_logprobs": 0, "max_tokens": 2},
)
STOPS = 60  # every so manieth token ends the requests that have stop ids


@dataclass(frozen=True)
class Traffic:
    """Requests of a model: the vocabulary, the most tokens of prompt and output together, typical lengths.

    ``stretch`` requests in a row can all be launched ahead, then as many where every third cannot.
    """

    vocab_size: int
    length: int
    prompt: int = 60
    output: int = 30
    stretch: int = 500

    def request(self, number: int) -> tuple[Input, SamplingParams]:
        """The prompt and parameters of one request; one in 100 is too long to run."""
        draw = random.Random(f"soak-{number}")
        size = int(min(self.length // 2, max(1, draw.lognormvariate(math.log(self.prompt), 1.0))))
        ids = self._tokens(draw, size)
        if draw.random() < 0.3:  # behind one of six shared beginnings
            beginning = draw.randrange(6)
            shared = self._tokens(random.Random(f"shared-{beginning}"), (beginning + 1) * self.length // 16)
            ids = shared + ids
        if draw.random() < 0.01:
            ids = self._tokens(draw, self.length)
        fields = dict(draw.choice(SAMPLING))
        tokens = int(max(1, min(10 * self.output, draw.lognormvariate(math.log(self.output), 0.8))))
        fields |= {"max_tokens": tokens, "ignore_eos": draw.random() < 0.8, "seed": number, "detokenize": False}
        if draw.random() < 0.25:
            fields["stop_token_ids"] = tuple(range(draw.randrange(STOPS), self.vocab_size, STOPS))
        if fields["temperature"] > 0 and draw.random() < 0.07:
            fields["n"] = draw.randint(2, 4)
        if number // self.stretch % 2 and number % 3 == 0:
            fields |= draw.choice(ON_THE_HOST)
            fields["max_tokens"] = max(fields["max_tokens"], fields.get("min_tokens", 0))
        salt = "other" if draw.random() < 0.02 else ""
        return Input(ids, cache_salt=salt, priority=draw.randrange(4)), SamplingParams(**fields)

    def _tokens(self, draw: random.Random, count: int) -> list[int]:
        return [draw.randrange(3, self.vocab_size) for _ in range(count)]


class Account:
    """Every request is accounted for exactly once, and every output is one that its request allows.

    Raises:
        AssertionError: from any method; the message names the request.
    """

    def __init__(self, traffic: Traffic, end_ids: frozenset[int]) -> None:
        self.traffic = traffic
        self.end_ids = end_ids
        self.live: dict[str, tuple[Input, SamplingParams]] = {}
        self.counts = {"finished": 0, "aborted": 0, "refused": 0}
        self.tokens = 0
        self.reasons: dict[str, int] = {}

    @property
    def settled(self) -> int:
        """Requests that are over, in whatever way."""
        return sum(self.counts.values())

    def settle(self, output: RequestOutput, how: str) -> tuple[Input, SamplingParams]:
        """Take an output in: of a request that is live, and only once."""
        name = output.request_id
        assert name in self.live, f"request {name}: an output although it is not live"
        prompt, params = self.live.pop(name)
        assert list(output.prompt_token_ids) == prompt.token_ids, f"request {name}: another prompt"
        assert len(output.outputs) == params.n, f"request {name}: {len(output.outputs)} completions for n={params.n}"
        for completion in output.outputs:
            reason = str(completion.finish_reason)
            allowed = ("abort", "stop", "length") if how == "aborted" else ("stop", "length")
            assert reason in allowed, f"request {name}: finish reason {reason} when {how}"
            self._check_tokens(name, prompt, params, tuple(completion.token_ids), reason)
            self._check_logprobs(name, params, completion)
            self.tokens += len(completion.token_ids)
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.counts[how] += 1
        return prompt, params

    def _check_tokens(
        self, name: str, prompt: Input, params: SamplingParams, ids: tuple[int, ...], reason: str
    ) -> None:
        room = self.traffic.length - len(prompt.token_ids)
        most = min(room, params.max_tokens or room)
        assert all(0 <= token < self.traffic.vocab_size for token in ids), f"request {name}: a token out of range"
        assert len(ids) == most or (reason != "length" and len(ids) <= most), f"request {name}: {len(ids)} tokens"
        stops = frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else self.end_ids)
        at = [i for i, token in enumerate(ids) if token in stops and i + 1 >= max(1, params.min_tokens)]
        expected = [len(ids) - 1] if reason == "stop" else []
        assert at == expected, f"request {name}: stop ids at {at} of {len(ids)}, finish reason {reason}"

    def _check_logprobs(self, name: str, params: SamplingParams, completion: Any) -> None:
        if params.logprobs is None:
            return
        assert len(completion.logprobs) == len(completion.token_ids), f"request {name}: log-probabilities are missing"
        values = [entry.logprob for step in completion.logprobs for entry in step.values()]
        assert all(math.isfinite(value) and value <= 0 for value in values), f"request {name}: bad log-probability"
