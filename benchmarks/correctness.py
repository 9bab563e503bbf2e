"""How near the engine's tokens and log-probabilities are to transformers in float32, against transformers' own bf16."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.reference import Take, greedy, logits, reference_model
from engine import LLM, SamplingParams

Ids = list[int]


@dataclass(frozen=True)
class Scored:
    """A sequence, and the log-probabilities of its tokens from number ``first`` on."""

    ids: Ids
    first: int
    logprobs: list[float]


@dataclass(frozen=True)
class Parting:
    """Where a greedy output leaves the reference's: the reference's logit there, less that of the token taken."""

    prompt: int
    position: int
    gap: float


@dataclass(frozen=True)
class Verdict:
    """Greedy tokens against those of float32.

    A parting is a tie where the gap is within ``limit``, which is what transformers' own bf16 does to such gaps (see
    ``Judge.rounding``). ``beyond`` counts the others.
    """

    equal: int
    prompts: int
    partings: list[Parting]
    limit: float

    @property
    def beyond(self) -> int:
        """Partings that rounding does not explain."""
        return sum(parting.gap > self.limit for parting in self.partings)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        gaps = sorted(parting.gap for parting in self.partings)
        return {
            "equal": self.equal, "prompts": self.prompts, "limit": self.limit, "beyond": self.beyond, "gaps": gaps,
        }  # fmt: skip


@dataclass(frozen=True)
class Judge:
    """Transformers' view of the prompts: greedy tokens in float32 and bf16, and the reference's logits."""

    prompts: Sequence[Ids]
    tokens: list[Ids]
    bf16_tokens: list[Ids]
    logits: list[torch.Tensor]  # of each prompt [count, vocab] float32, along the reference's tokens
    rounding: float  # 99.9th percentile of |bf16 - float32| of the gap between a position's two likeliest tokens

    def verdict(self, outputs: Sequence[Ids], limit: float | None = None) -> Verdict:
        """Greedy outputs against the reference's; ``limit`` replaces that of bf16."""
        partings = []
        for number, (ours, theirs) in enumerate(zip(outputs, self.tokens, strict=True)):
            assert len(ours) == len(theirs)
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
            if at is not None:
                row = self.logits[number][at]
                partings.append(Parting(number, at, float(row[theirs[at]] - row[ours[at]])))
        equal = len(outputs) - len(partings)
        return Verdict(equal, len(outputs), partings, self.rounding if limit is None else limit)


def judge(config: Mapping[str, Any], take: Take, prompts: Sequence[Ids], count: int, device: torch.device) -> Judge:
    """Let transformers complete the prompts in float32 and in bf16."""
    with reference_model(config, take, torch.float32, device) as model:
        tokens = greedy(model, prompts, count)
        exact = [
            logits(model, prompt + out[:-1], len(prompt) - 1).cpu() for prompt, out in zip(prompts, tokens, strict=True)
        ]
    errors = []
    with reference_model(config, take, torch.bfloat16, device) as model:
        rounded_tokens = greedy(model, prompts, count)
        for prompt, out, rows in zip(prompts, tokens, exact, strict=True):
            rounded = logits(model, prompt + out[:-1], len(prompt) - 1).cpu()
            top = rows.topk(2, -1).indices
            errors.append((rounded.gather(1, top) - rows.gather(1, top)).diff(dim=-1).abs()[:, 0])
    return Judge(prompts, tokens, rounded_tokens, exact, float(torch.cat(errors).quantile(0.999)))


def engine_tokens(llm: LLM, prompts: Sequence[Ids], count: int) -> list[Ids]:
    """The engine's greedy tokens, all prompts together."""
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
    return [list(o.outputs[0].token_ids) for o in llm.generate(list(prompts), params, use_tqdm=False)]


def engine_scores(llm: LLM, prompts: Sequence[Ids], count: int) -> dict[str, list[Scored]]:
    """Log-probabilities by the engine: of the prompts' tokens (``prefill``), of ``count`` tokens after (``decode``)."""
    params = SamplingParams(
        temperature=0, max_tokens=count, ignore_eos=True, detokenize=False, logprobs=0, prompt_logprobs=0
    )
    found: dict[str, list[Scored]] = {"prefill": [], "decode": []}
    for prompt, output in zip(prompts, llm.generate(list(prompts), params, use_tqdm=False), strict=True):
        assert output.error is None, output.error
        completion, scored = output.outputs[0], output.prompt_logprobs
        assert scored is not None
        assert completion.logprobs is not None
        tokens = list(completion.token_ids)
        told = [row[token].logprob for row, token in zip(scored[1:], prompt[1:], strict=True) if row is not None]
        drawn = [row[token].logprob for row, token in zip(completion.logprobs, tokens, strict=True)]
        found["prefill"].append(Scored(prompt, 1, told))
        found["decode"].append(Scored(prompt + tokens, len(prompt), drawn))
    return found


def distances(
    config: Mapping[str, Any], take: Take, scored: Mapping[str, Sequence[Scored]], device: torch.device
) -> dict[str, dict[str, float]]:
    """|log-probability - that of float32|, mean and greatest, for the engine and for transformers in bf16."""
    values: dict[torch.dtype, dict[str, torch.Tensor]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        with reference_model(config, take, dtype, device) as model:
            values[dtype] = {part: torch.cat([_scores(model, s) for s in all_]) for part, all_ in scored.items()}
    result = {}
    for part, sequences in scored.items():
        exact = values[torch.float32][part]
        ours = (torch.tensor([value for s in sequences for value in s.logprobs]) - exact).abs()
        theirs = (values[torch.bfloat16][part] - exact).abs()
        result[part] = {
            "tokens": float(len(exact)), "engine_mean": float(ours.mean()), "engine_max": float(ours.max()),
            "transformers_bf16_mean": float(theirs.mean()), "transformers_bf16_max": float(theirs.max()),
        }  # fmt: skip
    return result


def _scores(model: Any, scored: Scored) -> torch.Tensor:
    """Log-probabilities of the same tokens by a reference model: [len(ids) - first] on the CPU."""
    rows = logits(model, scored.ids[:-1], scored.first - 1).log_softmax(-1)
    targets = torch.tensor(scored.ids[scored.first :], device=rows.device)
    return rows.gather(1, targets[:, None])[:, 0].cpu()


def random_prompts(count: int, longest: int, vocab_size: int = 32000) -> list[Ids]:
    """Prompts of 2 to ``longest`` random tokens."""
    draw = random.Random(3)
    return [[draw.randrange(10, vocab_size) for _ in range(draw.randint(2, longest))] for _ in range(count)]
