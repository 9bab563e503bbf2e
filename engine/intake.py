"""What becomes of a prompt that arrives: its checks, and the requests that the scheduler gets for it."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

from engine.costs import DecoderCosts
from engine.params import SamplingParams
from engine.schedule.request import Request
from engine.seeds import derive_seed
from engine.text.inputs import Input, InputError

UNREADY = (
    "logit_bias", "allowed_token_ids", "bad_words", "structured_outputs", "flat_logprobs", "truncate_prompt_tokens",
)  # fmt: skip
MAX_SEED = (1 << 63) - 1  # seeds of any size are cut to 63 bits: tensors hold them as int64


@dataclass(frozen=True, kw_only=True)
class GenerationModel:
    """What the engine knows of the model beside its weights."""

    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int]
    seed: int
    costs: DecoderCosts


def check_prompt(model: GenerationModel, prompt: Input, params: SamplingParams, has_tokenizer: bool) -> None:
    """Verify that a prompt can be run.

    Raises:
        InputError: it is empty, too long, has token ids that the model does not have, or asks for what is not there.
    """
    ids, limit = prompt.token_ids, model.max_model_len
    if not ids:
        raise InputError("the prompt is empty: it must have at least one token")
    if len(ids) >= limit:
        raise InputError(f"the prompt has {len(ids)} tokens; max_model_len={limit} leaves room for at most {limit - 1}")
    for name, values in (("prompt token", ids), ("stop_token_ids", params.stop_token_ids or ())):
        wrong = next((x for x in values if not 0 <= x < model.vocab_size), None)
        if wrong is not None:
            raise InputError(f"{name} id {wrong} is not in the vocabulary: ids go from 0 to {model.vocab_size - 1}")
    unready = next((name for name in UNREADY if getattr(params, name)), None)
    if unready is not None:
        raise InputError(f"{unready}={getattr(params, unready)!r} is not supported yet")
    if params.stop_strings and not has_tokenizer:
        raise InputError("stop strings need a tokenizer, but skip_tokenizer_init is set: use stop_token_ids")


def make_requests(
    model: GenerationModel, index: int, prompt: Input, params: SamplingParams, seed_index: int | None = None
) -> list[Request]:
    """The prompt's ``n`` completions as requests.

    Args:
        model: what bounds them and ends them.
        index: of the prompt, in order of arrival.
        prompt: the prompt, checked.
        params: of all completions.
        seed_index: the number that noise is drawn by where ``params`` name no seed; ``None`` takes ``index``.
    """
    room = model.max_model_len - len(prompt.token_ids)
    stop_ids = frozenset(params.stop_token_ids or ())
    seed = params.seed
    if seed is None:
        seed = derive_seed(model.seed, index if seed_index is None else seed_index)
    params = copy(params)  # the caller may change its own
    rest = replace(params, prompt_logprobs=None) if params.prompt_logprobs is not None else params
    return [
        Request(
            index=index,
            child=child,
            prompt=prompt.token_ids,
            params=params if child == 0 else rest,  # the prompt is scored once
            max_output=room if params.max_tokens is None else min(params.max_tokens, room),
            stop_ids=stop_ids if params.ignore_eos else stop_ids | model.eos_ids,
            seed=(seed + child) & MAX_SEED,
            priority=prompt.priority,
            salt=prompt.cache_salt.encode(),
        )
        for child in range(params.n)
    ]
