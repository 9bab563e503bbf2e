"""Token ids in a request's parameters, checked against the model before the request is queued."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.params import SamplingParams
from engine.text.inputs import Input, InputError


def check_vocabulary(name: str, ids: Iterable[int], vocab_size: int) -> None:
    """Every one of the ids must be one of the model's.

    Raises:
        InputError: one is not; the message names what it is, the id, and the range.
    """
    wrong = next((x for x in ids if not 0 <= x < vocab_size), None)
    if wrong is not None:
        raise InputError(f"{name} id {wrong} is not in the vocabulary: ids go from 0 to {vocab_size - 1}")


def check_token_ids(prompt: Input, params: SamplingParams, vocab_size: int) -> None:
    """Every id must be one of the model's.

    Raises:
        InputError: one is not; the message names where it stands, the id, and the range.
    """
    named = (
        ("prompt token", prompt.token_ids),
        ("stop_token_ids", params.stop_token_ids or ()),
        ("logit_bias", params.logit_bias or ()),
        ("allowed_token_ids", params.allowed_token_ids or ()),
    )
    for name, values in named:
        check_vocabulary(name, values, vocab_size)


def check_choice(params: SamplingParams, stop_ids: frozenset[int], bad_words: Sequence[Sequence[int]]) -> None:
    """Some token must be left to be drawn first.

    Raises:
        InputError: ``allowed_token_ids`` holds nothing but stop ids that ``min_tokens`` masks, and bad words.
    """
    if params.allowed_token_ids is None:
        return
    left = set(params.allowed_token_ids).difference(words[0] for words in bad_words if len(words) == 1)
    if not left:
        raise InputError("bad_words rule out every one of allowed_token_ids: no token can be drawn")
    if params.min_tokens and left <= stop_ids:
        raise InputError(
            f"allowed_token_ids leave only ids that end the output, which min_tokens={params.min_tokens} rules out"
        )
