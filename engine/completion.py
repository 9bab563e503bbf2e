"""One completion while it grows: its text, its log-probabilities, and the stop strings it may meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.execute.runner import Accepted
from engine.flat_logprobs import given_as
from engine.logprobs import PositionLogprobs, RawLogprobs
from engine.outputs import CompletionOutput, TokenLogprobs
from engine.schedule.request import Request
from engine.text.detokenizer import IncrementalDetokenizer
from engine.text.stops import StopStrings
from engine.text.stream import TextStream
from engine.text.tokenizer import Tokenizer


class Gain(NamedTuple):
    """What completion number ``child`` of a streamed request has gained; the reasons once it has ended.

    ``cumulative_logprob`` is that of the whole output so far; it and ``logprobs`` are ``None`` where not asked for.
    """

    request_id: str
    child: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...] | None
    cumulative_logprob: float | None
    finish_reason: str | None
    stop_reason: int | str | None


class Completion:
    """Follows one scheduled request.

    Text is made once, at the end, unless it is streamed or stop strings have to be looked for on the way.

    Args:
        request: the request; the scheduler books a token before this class does.
        tokenizer: ``None`` gives no text.
        streams: whether ``gain`` will be asked for.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer | None, streams: bool = False) -> None:
        params = request.params
        self.request = request
        self.streams = streams
        self._tokenizer = tokenizer if params.detokenize else None
        self._names = tokenizer
        self._stream: TextStream | None = None
        if self._tokenizer is not None and (streams or params.stop_strings):
            self._stream = TextStream(
                IncrementalDetokenizer(
                    self._tokenizer, request.prompt, params.skip_special_tokens, params.spaces_between_special_tokens
                ),
                StopStrings(params.stop_strings, params.include_stop_str_in_output),
                piecewise=streams,
            )
        self.accepted = 0  # tokens booked
        self._logprobs: list[PositionLogprobs] = []
        self._cumulative = 0.0
        self._new_text = ""  # since the last gain, as the tokens and log-probabilities behind it
        self._new_tokens: list[int] = []
        self._new_logprobs = 0  # where they begin
        self.told = False  # whether a gain has been asked for

    @property
    def follows(self) -> bool:
        """Whether each token has to be booked as it comes: for a stream, stop strings or log-probabilities."""
        return self.streams or self._stream is not None or self.request.params.logprobs is not None

    def accept(self, token: int, logprobs: RawLogprobs | None, drafts: Accepted | None = None) -> str | None:
        """Book the request's next token, and the drafts before it that were right.

        Returns the stop string that is completed first, if any; what was drawn behind it is not booked. Nor is what was
        drawn behind a token that ended the request.
        """
        if drafts is None:
            return self._accept(token, logprobs)
        kept = len(self.request.output) - self.accepted
        scores = [*drafts.logprobs, logprobs] if logprobs is not None else [None] * (len(drafts.tokens) + 1)
        for number, (one, score) in enumerate(zip([*drafts.tokens, token], scores, strict=True), start=1):
            stop = self._accept(one, score, last=number == kept)
            if stop is not None or number == kept:
                return stop
        return None

    def _accept(self, token: int, logprobs: RawLogprobs | None, last: bool = True) -> str | None:
        """Book one token; ``last``: with it the request ends, if it has ended."""
        ended = self.request.finish_reason if last else None
        self.accepted += 1
        if logprobs is not None:
            self._cumulative += logprobs.logprob
            self._logprobs.append(PositionLogprobs(logprobs, self._names))
        if self.streams:
            self._new_tokens.append(token)
        stream, params = self._stream, self.request.params
        if stream is None:
            return None
        search = self.accepted > params.min_tokens and ended != "stop"
        piece = ""
        if ended != "stop" or params.include_stop_str_in_output:  # else it was a stop id, which is no text
            piece += stream.push(token, search)
        if ended is not None:
            piece += stream.finish(search)
        if self.streams:
            self._new_text += piece
        return stream.stop

    def end(self) -> None:
        """No token follows although none ended the request: what is held back of the text comes out."""
        if self._stream is not None:
            self._new_text += self._stream.finish(search=False)  # the last gain takes it

    def gain(self, request_id: str) -> Gain:
        """What has come since the last time, in a request that streams."""
        scored = self.request.params.logprobs is not None
        gain = Gain(
            request_id,
            self.request.child,
            self._new_text,
            tuple(self._new_tokens),
            tuple(self._logprobs[self._new_logprobs :]) if scored else None,
            self._cumulative if scored else None,
            self.request.finish_reason,
            self.request.stop_reason,
        )
        self.told = True
        self._new_text, self._new_logprobs = "", len(self._logprobs)
        self._new_tokens.clear()
        return gain

    def output(self) -> CompletionOutput:
        """The completion as it stands; all of its text where the request has ended."""
        request = self.request
        scored = request.params.logprobs is not None
        logprobs: Sequence[TokenLogprobs] | None = None
        if scored:
            logprobs = given_as(self._logprobs, request.params.flat_logprobs)
        return CompletionOutput(
            index=request.child,
            text=self._text(),
            token_ids=list(request.output),
            cumulative_logprob=self._cumulative if scored else None,
            logprobs=logprobs,
            finish_reason=request.finish_reason,
            stop_reason=request.stop_reason,
        )

    def _text(self) -> str:
        """The text of the output: cut at the stop string, without the token that stopped it."""
        request, params = self.request, self.request.params
        if self._tokenizer is None:
            return ""
        if self._stream is not None:
            return self._stream.text
        ids = request.output
        ended = request.finish_reason == "stop" and ids and ids[-1] in request.stop_ids
        if ended and not params.include_stop_str_in_output:
            ids = ids[:-1]
        return self._tokenizer.decode(
            ids, params.skip_special_tokens, params.spaces_between_special_tokens, request.prompt
        )
