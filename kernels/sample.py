"""Sampling of one token per row: what a row asks for, the definition in torch, and the dispatch by device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.noise import gumbel

GREEDY_BELOW = 1e-5  # temperatures under this take the likeliest token


@dataclass(frozen=True)
class SamplingRows:
    """Sampling parameters of the rows of a batch, each [rows] on the logits' device; neutral values switch a step off.

    ``occurrences`` is the state that penalties read, or None where no row has any: [states, vocab] int32, twice the
    number of times a token stands in the output, plus 1 if it stands in the prompt. Row i reads state ``states[i]``.
    """

    temperature: torch.Tensor  # float32; below GREEDY_BELOW greedy
    top_k: torch.Tensor  # int32; 0 keeps all
    top_p: torch.Tensor  # float32; 1 keeps all
    min_p: torch.Tensor  # float32; 0 keeps all
    seeds: torch.Tensor  # int64
    positions: torch.Tensor  # int64, the position in the sequence that the token will take
    presence: torch.Tensor | None = None  # float32
    frequency: torch.Tensor | None = None  # float32
    repetition: torch.Tensor | None = None  # float32
    states: torch.Tensor | None = None  # int32
    occurrences: torch.Tensor | None = None


@dataclass(frozen=True)
class Sampled:
    """The tokens of a step and what the unprocessed distribution says of them."""

    tokens: torch.Tensor  # [rows] int64
    logprobs: torch.Tensor  # [rows] float32
    ranks: torch.Tensor  # [rows] int32, 1 is the likeliest; tokens of equal logits share the better rank


def sample(logits: torch.Tensor, rows: SamplingRows, filtered: bool, ranked: bool = True) -> Sampled:
    """Draw a token per row.

    Penalties, temperature, min_p, top_k, top_p, then Gumbel-max with noise from (seed, position, token). A filter keeps
    all tokens whose logit equals its last one's.

    Args:
        logits: [rows, vocab], any float type; -inf forbids a token.
        rows: parameters.
        filtered: whether any row has top_k, top_p or min_p; decided on the host, since it chooses the kernels.
        ranked: whether ranks are wanted; on CUDA they are 1 otherwise.
    """
    if logits.is_cuda:
        from kernels.cuda import sample as cuda

        return cuda.sample(logits, rows, filtered, ranked)
    return reference(logits, rows)


def draw(logits: torch.Tensor, rows: SamplingRows, filtered: bool) -> torch.Tensor:
    """The tokens that ``sample`` draws, [rows] int64, and nothing else."""
    if logits.is_cuda:
        return sample(logits, rows, filtered, ranked=False).tokens
    from kernels.cpu import sample as cpu

    return cpu.draw(logits.float(), rows)


def reference(logits: torch.Tensor, rows: SamplingRows) -> Sampled:
    """The definition in torch, in float32, by sorting."""
    raw = logits.float()
    x = penalise(raw, rows)
    greedy = rows.temperature < GREEDY_BELOW
    x = x / torch.where(greedy, 1.0, rows.temperature)[:, None]
    kept = x >= threshold(x, rows)[:, None]
    noise = gumbel(rows.seeds, rows.positions, raw.shape[1])
    drawn = torch.where(greedy[:, None], x, torch.where(kept, x + noise, float("-inf")))
    best = drawn.max(-1, keepdim=True).values
    tokens = (drawn == best).int().argmax(-1)  # the lowest of equals
    chosen = raw.gather(1, tokens[:, None])
    logprobs = (chosen - raw.logsumexp(-1, keepdim=True))[:, 0]
    return Sampled(tokens, logprobs, 1 + (raw > chosen).sum(-1, dtype=torch.int32))


def penalise(logits: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """Repetition, then frequency and presence penalties."""
    if rows.occurrences is None:
        return logits
    assert rows.states is not None
    assert rows.presence is not None
    assert rows.frequency is not None
    assert rows.repetition is not None
    seen = rows.occurrences[rows.states.long()]
    factor = torch.where(seen > 0, rows.repetition[:, None], 1.0)
    logits = torch.where(logits > 0, logits / factor, logits * factor)
    output = seen >> 1
    return logits - rows.frequency[:, None] * output - rows.presence[:, None] * (output > 0)


def threshold(x: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """The least processed logit that min_p, top_k and top_p, in this order, keep: [rows]."""
    ordered = x.sort(-1, descending=True).values
    limit = torch.where(rows.min_p > 0, ordered[:, 0] + rows.min_p.log(), float("-inf"))
    last = torch.where(rows.top_k > 0, rows.top_k, x.shape[1]).clamp(max=x.shape[1]).long() - 1
    limit = torch.maximum(limit, ordered.gather(1, last[:, None])[:, 0])
    weights = (ordered - ordered[:, :1]).exp().masked_fill(ordered < limit[:, None], 0)
    cumulative = weights.double().cumsum(-1)
    reached = cumulative >= rows.top_p[:, None] * cumulative[:, -1:]
    first = reached.int().argmax(-1)
    nucleus = ordered.gather(1, first[:, None])[:, 0]
    return torch.where(rows.top_p < 1, torch.maximum(limit, nucleus), limit)
