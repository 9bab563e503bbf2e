"""Prompts as a peer gets them, token ids made by our own tokenizer, and what its tokens become."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from engine.outputs import CompletionOutput, RequestMetrics, RequestOutput
from engine.params import Prompt, SamplingParams
from engine.prompting import with_params
from engine.text.detokenizer import IncrementalDetokenizer
from engine.text.inputs import Input, InputError, read_inputs
from engine.text.stops import StopStrings
from engine.text.stream import TextStream
from engine.text.tokenizer import Tokenizer
from runner.peers.model import PeerModel

READ_AHEAD = 64  # prompts that are tokenized together


@dataclass(frozen=True)
class PeerRequest:
    """A prompt that can be run. ``ends``: ids that end its output; ``room``: the most output tokens."""

    number: int
    token_ids: Sequence[int]
    params: SamplingParams
    ends: frozenset[int]
    room: int
    arrival: float


def read_requests(
    prompts: Iterable[Prompt], params: SamplingParams | Iterable[SamplingParams], model: PeerModel
) -> Iterator[PeerRequest | RequestOutput]:
    """Each prompt as a request, or as the output that says why it cannot be one; read in small groups."""
    pairs = enumerate(with_params(prompts, params, str(model.folder)))
    while group := list(islice(pairs, READ_AHEAD)):
        arrival = time.monotonic()
        read = read_inputs([prompt for _, (prompt, _) in group], model.tokenizer)
        for (number, (_, own)), one in zip(group, read, strict=True):
            yield _request(number, one, own, model, arrival)


def _request(
    number: int, read: Input | InputError, params: SamplingParams, model: PeerModel, arrival: float
) -> PeerRequest | RequestOutput:
    try:
        if isinstance(read, InputError):
            raise read
        side = model.tokenizer.truncation_side if model.tokenizer is not None else "left"
        prompt = read.kept(params.truncate_prompt_tokens, model.max_model_len - 1, side)
        room = model.max_model_len - len(prompt.token_ids)
        if not prompt.token_ids:
            raise InputError("the prompt is empty: it must have at least one token")
        if room < 1:
            raise InputError(
                f"the prompt has {len(prompt.token_ids)} tokens; max_model_len={model.max_model_len} leaves room for "
                f"at most {model.max_model_len - 1}"
            )
    except InputError as error:
        return RequestOutput(str(number), None, (), (), metrics=RequestMetrics(arrival), error=str(error))
    ends = frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else model.ends)
    most = room if params.max_tokens is None else min(params.max_tokens, room)
    return PeerRequest(number, prompt.token_ids, params, ends, most, arrival)


def completion(request: PeerRequest, tokens: Sequence[int], tokenizer: Tokenizer | None) -> CompletionOutput:
    """What a peer's tokens are by the native engine's rules: cut where those end an output, with its text."""
    params = request.params
    stream = None
    if tokenizer is not None and params.detokenize:
        spelling = (params.skip_special_tokens, params.spaces_between_special_tokens)
        stops = StopStrings(params.stop_strings, params.include_stop_str_in_output)
        stream = TextStream(IncrementalDetokenizer(tokenizer, request.token_ids, *spelling), stops, piecewise=False)
    kept: list[int] = []
    ended: int | None = None
    for token in tokens[: request.room]:
        kept.append(token)
        search = len(kept) > params.min_tokens
        if token in request.ends:
            ended = token
        if stream is not None and (ended is None or params.include_stop_str_in_output):
            stream.push(token, search and ended is None)
        if ended is not None or (stream is not None and stream.stop is not None):
            break
    if stream is not None:
        stream.finish(len(kept) > params.min_tokens)
    stop = stream.stop if stream is not None else None
    reason: int | str | None = stop
    if ended is not None and ended in (params.stop_token_ids or ()):
        reason = ended
    return CompletionOutput(
        index=0,
        text="" if stream is None else stream.text,
        token_ids=tuple(kept),
        finish_reason="stop" if ended is not None or stop is not None else "length",
        stop_reason=reason,
    )
