"""Requests in the middle of their output, random mixtures of all fields, and the engine's sampler on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engine.execute.sampler import Sampler
from engine.params import SamplingParams
from engine.schedule.plan import Slice
from engine.schedule.request import Request, Status

VOCAB = 40
CPU = torch.device("cpu")


def request(index: int = 0, prompt: Sequence[int] = (1,), output: Sequence[int] = (), **fields: Any) -> Request:
    own = {name: fields.pop(name) for name in ("stop_ids", "bad_words") if name in fields}
    words = own.pop("bad_words", ())
    params = SamplingParams(max_tokens=None, **fields)
    one = Request(
        index=index,
        prompt=list(prompt),
        output=list(output),
        params=params,
        max_output=99,
        seed=params.seed or 0,
        bad_words=tuple(tuple(word) for word in words),
        **own,
    )
    one.status = Status.RUNNING
    return one


def slice_of(one: Request) -> Slice:
    """The slice that draws the request's next token."""
    return Slice(one, one.total - 1, one.total, True, one.preemptions)


def packed(allowed: Collection[int], vocab: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """A grammar's tokens as a packed mask."""
    words = np.zeros(-(-vocab // 32), np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << (token % 32))
    return words.view(np.int32)


def sample(
    logits: torch.Tensor,
    requests: Sequence[Request],
    grammars: Mapping[Request, Collection[int]] | None = None,
    sampler: Sampler | None = None,
) -> list[int]:
    """The engine's tokens."""
    masks = {one: packed(tokens, logits.shape[1]) for one, tokens in (grammars or {}).items()}
    sampler = sampler or Sampler(logits.shape[1], CPU)
    return sampler.draw(logits, [slice_of(one) for one in requests], masks).tolist()


def random_request(rng: np.random.Generator, index: int, vocab: int = VOCAB) -> Request:
    """Each field is at its default in half of the requests; outputs use few tokens, so that words come again."""

    def maybe(value: Any, plain: Any) -> Any:
        return value if rng.random() < 0.5 else plain

    def some(count: int, below: int = vocab) -> list[int]:
        return rng.integers(0, below, count).tolist()

    output = some(int(rng.integers(0, 12)), vocab // 8)
    ending = [[*output[len(output) - n :], t] for n, t in zip(rng.integers(0, 4, 6), some(6), strict=True)]
    return request(
        index,
        prompt=some(int(rng.integers(1, 20))),
        output=output,
        stop_ids=frozenset(some(3)),
        bad_words=maybe([*ending, some(2, vocab // 8), some(3, vocab // 8)], ()),
        allowed_token_ids=maybe(sorted({*some(vocab // 2), 7, 11}), None),
        logit_bias=maybe(dict(zip(some(6), rng.uniform(-6, 6, 6).tolist(), strict=True)), None),
        temperature=maybe(float(rng.uniform(0.3, 2)), rng.choice([0.0, 1.0]).item()),
        top_p=maybe(float(rng.uniform(0.1, 1)), 1.0),
        top_k=maybe(int(rng.integers(1, vocab + 5)), rng.choice([0, -1]).item()),
        min_p=maybe(float(rng.uniform(0, 0.5)), 0.0),
        repetition_penalty=maybe(float(rng.uniform(0.5, 2)), 1.0),
        presence_penalty=maybe(float(rng.uniform(-2, 2)), 0.0),
        frequency_penalty=maybe(float(rng.uniform(-2, 2)), 0.0),
        min_tokens=maybe(6, 0),
        seed=int(rng.integers(0, 2**62)),
    )


def random_grammars(rng: np.random.Generator, requests: Sequence[Request]) -> dict[Request, set[int]]:
    """What grammars allow, for a third of the requests."""
    return {
        one: {*rng.choice(VOCAB, VOCAB // 2, replace=False).tolist(), 7, 11} for one in requests if rng.random() < 0.33
    }
