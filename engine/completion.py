"""One completion while it grows: its text, its log-probabilities, and the stop strings it may meet."""

from __future__ import annotations

from collections.abc import Sequence

from engine.flat_logprobs import FlatLogprobs
from engine.logprobs import PositionLogprobs, RawLogprobs
from engine.outputs import CompletionOutput, TokenLogprobs
from engine.schedule.request import Request
from engine.text.detokenizer import IncrementalDetokenizer
from engine.text.stops import StopMatch, StopStrings
from engine.text.tokenizer import Tokenizer


class Completion:
    """Follows one scheduled request.

    Text is made once, at the end, unless stop strings have to be looked for on the way.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer | None) -> None:
        params = request.params
        self.request = request
        self._tokenizer = tokenizer
        self._stops = StopStrings(params.stop_strings, params.include_stop_str_in_output)
        self._stream: IncrementalDetokenizer | None = None
        if params.stop_strings and tokenizer is not None:
            self._stream = IncrementalDetokenizer(
                tokenizer, request.prompt, params.skip_special_tokens, params.spaces_between_special_tokens
            )
        self._streamed = ""
        self._accepted = 0
        self._cut: int | None = None
        self._logprobs: list[PositionLogprobs] = []
        self._cumulative = 0.0

    @property
    def follows(self) -> bool:
        """Whether each token has to be booked as it comes, for stop strings or log-probabilities."""
        return self._stream is not None or self.request.params.logprobs is not None

    def accept(self, token: int, logprobs: RawLogprobs | None) -> StopMatch | None:
        """Book the request's next token; returns the stop string that it completes, if any."""
        self._accepted += 1
        if logprobs is not None:
            self._cumulative += logprobs.logprob
            self._logprobs.append(PositionLogprobs(logprobs, self._tokenizer))
        if self._stream is None or self.request.finish_reason == "stop":
            return None
        new = self._stream.push(token)
        if self.request.finish_reason is not None:
            new += self._stream.flush()
        self._streamed += new
        if self._accepted <= self.request.params.min_tokens:
            return None
        match = self._stops.find(self._streamed, len(new)) if new else None
        if match is not None:
            self._cut = match.cut
        return match

    def output(self) -> CompletionOutput:
        """The completion as it stands."""
        request = self.request
        logprobs: Sequence[TokenLogprobs] | None = None
        if request.params.logprobs is not None:
            logprobs = FlatLogprobs.of(self._logprobs) if request.params.flat_logprobs else tuple(self._logprobs)
        return CompletionOutput(
            index=request.child,
            text=self._text(),
            token_ids=tuple(request.output),
            cumulative_logprob=None if logprobs is None else self._cumulative,
            logprobs=logprobs,
            finish_reason=request.finish_reason,
            stop_reason=request.stop_reason,
        )

    def _text(self) -> str:
        """The text of the output: cut at the stop string, without the token that stopped it."""
        request, params = self.request, self.request.params
        if self._tokenizer is None or not params.detokenize:
            return ""
        if self._cut is not None:
            return self._streamed[: self._cut]
        ids = request.output
        ended = request.finish_reason == "stop" and ids and ids[-1] in request.stop_ids
        if ended and not params.include_stop_str_in_output:
            ids = ids[:-1]
        return self._tokenizer.decode(
            ids, params.skip_special_tokens, params.spaces_between_special_tokens, request.prompt
        )
