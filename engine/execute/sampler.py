"""Draws the next token of every sequence of a step.

Order of processing, on float32 logits: ``min_tokens`` masks stop ids, penalties, temperature, ``min_p``, ``top_k``,
``top_p``, then the draw. Log-probabilities come from the logits before all of that. Every row is computed from its own
logits, parameters and (seed, position) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.schedule.request import Request
from kernels.noise import gumbel


@dataclass(frozen=True)
class RawLogprobs:
    """Log-probabilities at one position: the chosen token's with its rank (from 1), then the likeliest in order."""

    token: int
    logprob: float
    rank: int
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Sample:
    """The token drawn for a request; ``logprobs`` where the request asks for them."""

    token: int
    logprobs: RawLogprobs | None = None


def sample(logits: torch.Tensor, requests: Sequence[Request]) -> list[Sample]:
    """Draw one token per row.

    Args:
        logits: [requests, vocab] float32; not changed.
        requests: whose next token each row is.
    """
    if all(_plain(request) for request in requests):
        return [Sample(token) for token in logits.argmax(-1).tolist()]
    tokens = _draw(_processed(logits, requests), requests).tolist()
    results: list[Sample] = []
    for row, (request, token) in enumerate(zip(requests, tokens, strict=True)):
        wanted = request.params.logprobs
        results.append(Sample(token, None if wanted is None else raw_logprobs(logits[row], token, wanted)))
    return results


def raw_logprobs(logits: torch.Tensor, token: int, count: int) -> RawLogprobs:
    """Log-probabilities of ``token`` and of the ``count`` likeliest tokens (-1: all) under logits [vocab]."""
    values = torch.log_softmax(logits, -1)
    top = values.topk(values.numel() if count < 0 else min(count, values.numel()))
    rank = int((values > values[token]).sum()) + 1
    pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return RawLogprobs(token, float(values[token]), rank, pairs)


def _plain(request: Request) -> bool:
    """Whether the likeliest token of the unchanged logits is all that the request asks for."""
    params = request.params
    return params.greedy and params.logprobs is None and not params.has_penalties and not _masks_stops(request)


def _masks_stops(request: Request) -> bool:
    return len(request.output) < request.params.min_tokens


def _processed(logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """The logits after the mask of ``min_tokens`` and the penalties."""
    if not any(_masks_stops(request) or request.params.has_penalties for request in requests):
        return logits
    logits = logits.clone()
    for row, request in enumerate(requests):
        if _masks_stops(request):
            logits[row, sorted(request.stop_ids)] = float("-inf")
        if request.params.has_penalties:
            _penalise(logits[row], request)
    return logits


def _penalise(row: torch.Tensor, request: Request) -> None:
    """Apply a request's penalties to its logits [vocab] in place.

    The repetition penalty (Keskar et al. 2019) counts prompt and output, the other two the output alone.
    """
    params = request.params
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*request.prompt, *request.output}), device=row.device)
        values = row[seen]
        row[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if request.output and (params.frequency_penalty or params.presence_penalty):
        tokens, counts = torch.tensor(request.output, device=row.device).unique(return_counts=True)
        row[tokens] -= counts * params.frequency_penalty + params.presence_penalty


def _draw(logits: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """One token per row: the likeliest, or a draw from softmax(logits / temperature) cut to the allowed tokens.

    The draw is the argmax of scaled logits plus Gumbel noise, which has that distribution (Gumbel-max, Maddison et al.
    2014).
    """
    tokens = logits.argmax(-1)
    drawn = [row for row, request in enumerate(requests) if not request.params.greedy]
    if not drawn:
        return tokens
    chosen = [requests[row] for row in drawn]
    scores = logits[drawn] / _column([r.params.temperature for r in chosen], logits)  # [drawn, vocab]
    scores = _restrict(scores, chosen)
    seeds = torch.tensor([request.seed for request in chosen], device=logits.device)
    positions = torch.tensor([request.total for request in chosen], device=logits.device)
    noise = gumbel(seeds, positions, logits.shape[1])
    tokens[drawn] = (scores + noise).argmax(-1)
    return tokens


def _restrict(scores: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """Mask what min_p, then top_k, then top_p (Holtzman et al. 2020) leave out; scores [rows, vocab]."""
    if any(request.params.min_p > 0 for request in requests):
        floor = scores.amax(-1, keepdim=True) + _column([r.params.min_p for r in requests], scores).log()
        scores = scores.masked_fill(scores < floor, float("-inf"))
    top_k = [request.params.top_k if request.params.top_k > 0 else scores.shape[1] for request in requests]
    top_p = [request.params.top_p for request in requests]
    if min(top_k) >= scores.shape[1] and min(top_p) >= 1:
        return scores
    ordered, tokens = scores.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(scores.shape[1], device=scores.device)
    ordered = ordered.masked_fill(ranks >= _column(top_k, scores), float("-inf"))
    # A token stays while those likelier than it hold less than top_p: the first always does.
    shares = ordered.softmax(-1)
    likelier = shares.cumsum(-1) - shares
    ordered = ordered.masked_fill(likelier >= _column(top_p, scores), float("-inf"))
    return torch.empty_like(scores).scatter_(-1, tokens, ordered)


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]
