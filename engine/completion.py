"""One completion while it grows: its text, its log-probabilities, and the stop strings it may meet."""

from __future__ import annotations

from engine.execute.runner import Accepted
from engine.execute.sampler import RawLogprobs
from engine.outputs import CompletionOutput, Logprob, TokenLogprobs
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
        self.accepted = 0  # tokens booked
        self._cut: int | None = None
        self._logprobs: list[TokenLogprobs] = []
        self._cumulative = 0.0

    @property
    def follows(self) -> bool:
        """Whether each token has to be booked as it comes, for stop strings or log-probabilities."""
        return self._stream is not None or self.request.params.logprobs is not None

    def accept(self, token: int, logprobs: RawLogprobs | None, drafts: Accepted | None = None) -> StopMatch | None:
        """Book the request's next token, and the drafts before it that were right.

        Returns the stop string that is completed first, if any; what was drawn behind it is not booked. Nor is what was
        drawn behind a token that ended the request.
        """
        if drafts is None:
            return self._accept(token, logprobs)
        kept = len(self.request.output) - self.accepted
        scores = [*drafts.logprobs, logprobs] if logprobs is not None else [None] * (len(drafts.tokens) + 1)
        for number, (one, score) in enumerate(zip([*drafts.tokens, token], scores, strict=True), start=1):
            match = self._accept(one, score, last=number == kept)
            if match is not None or number == kept:
                return match
        return None

    def _accept(self, token: int, logprobs: RawLogprobs | None, last: bool = True) -> StopMatch | None:
        """Book one token; ``last``: with it the request ends, if it has ended."""
        ended = self.request.finish_reason if last else None
        self.accepted += 1
        if logprobs is not None:
            self._cumulative += logprobs.logprob
            self._logprobs.append(named_logprobs(logprobs, self._tokenizer))
        if self._stream is None or ended == "stop":
            return None
        new = self._stream.push(token)
        if ended is not None:
            new += self._stream.flush()
        self._streamed += new
        if self.accepted <= self.request.params.min_tokens:
            return None
        match = self._stops.find(self._streamed, len(new)) if new else None
        if match is not None:
            self._cut = match.cut
        return match

    def output(self) -> CompletionOutput:
        """The completion as it stands."""
        request = self.request
        with_logprobs = request.params.logprobs is not None
        return CompletionOutput(
            index=request.child,
            text=self._text(),
            token_ids=tuple(request.output),
            cumulative_logprob=self._cumulative if with_logprobs else None,
            logprobs=tuple(self._logprobs) if with_logprobs else None,
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


def named_logprobs(raw: RawLogprobs, tokenizer: Tokenizer | None) -> TokenLogprobs:
    """Log-probabilities by token id: the likeliest in order, then the chosen one where it is not among them."""

    def text(token: int) -> str | None:
        return None if tokenizer is None else tokenizer.token_text(token)

    named = {token: Logprob(value, rank, text(token)) for rank, (token, value) in enumerate(raw.top, start=1)}
    if raw.token not in named:
        named[raw.token] = Logprob(raw.logprob, raw.rank, text(raw.token))
    return named
