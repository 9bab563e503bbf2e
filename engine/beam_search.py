"""Beam search: the likeliest whole continuations of a prompt, a token at a time over the engine's prefix cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.outputs import BeamSearchOutput, BeamSearchSequence, Logprob, RequestOutput, TokenLogprobs
from engine.params import BeamSearchParams, Prompt, SamplingParams
from engine.text.tokenizer import Tokenizer

Run = Callable[[Sequence[Prompt], SamplingParams], Sequence[RequestOutput]]


@dataclass(frozen=True)
class _Beam:
    """Prompt and tokens so far, and the candidates that each new token was chosen from."""

    tokens: tuple[int, ...]
    cumulative: float = 0.0
    logprobs: tuple[TokenLogprobs, ...] = ()
    end: int | None = None

    def score(self, penalty: float) -> float:
        """Summed log-probability over length, without the token that ended it, to the power of the penalty."""
        length = max(1, len(self.tokens) - (self.end is not None))
        return self.cumulative / float(length**penalty)


@dataclass
class _Search:
    """The search of one prompt."""

    prompt: Prompt
    beams: list[_Beam] = field(default_factory=list)
    ended: list[_Beam] = field(default_factory=list)
    length: int = 0
    error: str | None = None


class BeamSearch:
    """Grows all beams of all prompts together, one engine request per beam and token.

    At each token a beam offers its ``2 * beam_width`` likeliest continuations (as transformers does); those at an
    end-of-sequence id are complete, of the others the ``beam_width`` with the best score go on. A beam's tokens are in
    the prefix cache up to their last whole block, so a token costs little more than in plain decoding.
    """

    def __init__(
        self,
        run: Run,
        params: BeamSearchParams,
        eos_ids: frozenset[int],
        max_model_len: int,
        tokenizer: Tokenizer | None,
    ) -> None:
        """Search by ``run``, which completes prompts by one token each, in order."""
        self._run = run
        self._params = params
        self._eos = frozenset() if params.ignore_eos else eos_ids
        self._limit = max_model_len
        self._tokenizer = tokenizer
        self._rescales = params.temperature > 0 and params.temperature != 1
        self._sampling = SamplingParams(
            temperature=0, max_tokens=1, logprobs=-1 if self._rescales else 2 * params.beam_width, detokenize=False
        )

    def search(self, prompts: Sequence[Prompt]) -> Iterator[list[BeamSearchOutput] | None]:
        """Yields ``None`` after each token, and at last the outputs in the order of the prompts."""
        searches = [_Search(prompt, error=_refusal(prompt)) for prompt in prompts]
        begun = [search for search in searches if search.error is None]
        outputs = self._run([search.prompt for search in begun], self._sampling)
        for search, output in zip(begun, outputs, strict=True):
            search.error, search.length = output.error, len(output.prompt_token_ids)
            if output.error is None:
                self._grow(search, [(_Beam(tuple(output.prompt_token_ids)), output)])
        yield None
        for _ in range(self._params.max_tokens - 1):
            growing = [(search, beam) for search in searches for beam in self._growing(search)]
            if not growing:
                break
            outputs = self._run([_continued(search.prompt, beam) for search, beam in growing], self._sampling)
            for search in searches:
                pairs = [(beam, output) for (one, beam), output in zip(growing, outputs, strict=True) if one is search]
                if pairs:
                    self._grow(search, pairs)
            yield None
        yield [self._output(search) for search in searches]

    def _growing(self, search: _Search) -> list[_Beam]:
        """Beams that go on; those that have reached the model's length are done."""
        if search.beams and len(search.beams[0].tokens) >= self._limit:
            search.ended += search.beams
            search.beams = []
        return search.beams

    def _grow(self, search: _Search, pairs: Sequence[tuple[_Beam, RequestOutput]]) -> None:
        candidates: list[_Beam] = []
        for beam, output in pairs:
            logprobs = self._candidates((output.outputs[0].logprobs or ({},))[0])
            for token, entry in logprobs.items():
                new = _Beam(
                    (*beam.tokens, token),
                    beam.cumulative + entry.logprob,
                    (*beam.logprobs, logprobs),
                    token if token in self._eos else None,
                )
                (candidates if new.end is None else search.ended).append(new)
        search.beams = self._best(candidates)

    def _candidates(self, logprobs: TokenLogprobs) -> TokenLogprobs:
        """The likeliest tokens, under the temperature."""
        if not self._rescales:
            return logprobs
        scaled = {token: entry.logprob / self._params.temperature for token, entry in logprobs.items()}
        top = max(scaled.values())
        total = top + math.log(math.fsum(math.exp(value - top) for value in scaled.values()))
        best = sorted(scaled, key=scaled.__getitem__, reverse=True)[: 2 * self._params.beam_width]
        return {
            token: Logprob(scaled[token] - total, rank, logprobs[token].decoded_token)
            for rank, token in enumerate(best, start=1)
        }

    def _best(self, beams: Sequence[_Beam]) -> list[_Beam]:
        penalty = self._params.length_penalty
        return sorted(beams, key=lambda beam: beam.score(penalty), reverse=True)[: self._params.beam_width]

    def _output(self, search: _Search) -> BeamSearchOutput:
        best = self._best([*search.ended, *search.beams])
        tokens = best[0].tokens[: search.length] if best else ()
        return BeamSearchOutput([self._sequence(beam) for beam in best], list(tokens), search.error)

    def _sequence(self, beam: _Beam) -> BeamSearchSequence:
        return BeamSearchSequence(
            tokens=list(beam.tokens),
            text=self._text(beam),
            cum_logprob=beam.cumulative,
            score=beam.score(self._params.length_penalty),
            logprobs=list(beam.logprobs),
            finish_reason="length" if beam.end is None else "stop",
        )

    def _text(self, beam: _Beam) -> str | None:
        if self._tokenizer is None:
            return None
        ids = beam.tokens if beam.end is None else beam.tokens[:-1]
        text = self._tokenizer.decode(ids, self._params.skip_special_tokens)
        shown = beam.end is not None and self._params.include_stop_str_in_output
        return text + self._tokenizer.token_text(beam.tokens[-1]) if shown else text


def _refusal(prompt: Prompt) -> str | None:
    """Why the prompt's beams cannot be prompts again, which are tokens, if so."""
    if isinstance(prompt, Mapping) and prompt.get("prompt_embeds") is not None:
        return "beam_search needs a prompt of text or tokens, not prompt_embeds"
    return None


def _continued(prompt: Prompt, beam: _Beam) -> Prompt:
    """A beam as a prompt, with what the caller's prompt says of the cache."""
    kept: dict[str, Any] = {}
    if isinstance(prompt, Mapping):
        kept = {key: prompt[key] for key in ("cache_salt", "priority") if key in prompt}
    return {"prompt_token_ids": list(beam.tokens), **kept}
