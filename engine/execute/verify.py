"""Checks drafts against the tokens drawn in their places.

A draw is a function of the logits, the request's parameters, its seed and the position, and logits do not depend on how
a sequence is cut into steps. So a draft is right exactly if it equals the token that is drawn in its place, and that is
the token that would have been drawn without any drafts. Outputs are the same to the bit, greedy and sampled alike, and
no rejection sampling is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.execute.runner import Accepted, StepResult
from engine.execute.sampler import RawLogprobs
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request


@dataclass(frozen=True)
class Rows:
    """What the rows of a step's logits are for: ``counts`` of them for each of its slices that ``sampling`` names.

    ``requests``: for each row the request whose next token is drawn there, as it would be if the drafts before were
    right. Made before the step is booked; what it says stays true afterwards.
    """

    sampling: Sequence[Slice]
    counts: Sequence[int]
    requests: Sequence[Request]
    drafts: Mapping[Request, Sequence[int]]

    @classmethod
    def of(cls, plan: StepPlan, sampling: Sequence[Slice]) -> Rows:
        """The rows of a plan, for its slices that sample, in the order in which they are laid out."""
        if not plan.drafts:
            return cls(sampling, (), [part.request for part in sampling], plan.drafts)
        requests: list[Request] = []
        counts = [plan.rows(part) for part in sampling]
        for part, count in zip(sampling, counts, strict=True):
            last = part.stop - part.request.total  # drafts before the slice's last row
            requests += [_continued(part.request, plan, before) for before in range(last - count + 1, last + 1)]
        return cls(sampling, counts, requests, plan.drafts)

    def result(self, tokens: Sequence[int], logprobs: Mapping[int, RawLogprobs]) -> StepResult:
        """The step's result from the token drawn for each row, and log-probabilities by row."""
        if not self.drafts:
            return StepResult(
                dict(zip(self.requests, tokens, strict=True)), {self.requests[i]: one for i, one in logprobs.items()}
            )
        drawn: dict[Request, int] = {}
        accepted: dict[Request, Accepted] = {}
        scored: dict[Request, RawLogprobs] = {}
        row = 0
        for part, count in zip(self.sampling, self.counts, strict=True):
            request = part.request
            drafts = self.drafts.get(request, ())
            right = row + _agreeing(tokens[row : row + count - 1], drafts)
            drawn[request] = tokens[right]
            if right in logprobs:
                scored[request] = logprobs[right]
            if drafts:
                found = [logprobs[i] for i in range(row, right) if i in logprobs]
                accepted[request] = Accepted(list(tokens[row:right]), found)
            row += count
        return StepResult(drawn, scored, accepted=accepted)


def _agreeing(tokens: Sequence[int], drafts: Sequence[int]) -> int:
    """How many leading drafts equal the tokens drawn in their places."""
    return next((i for i, token in enumerate(tokens) if token != drafts[i]), len(tokens))


def _continued(request: Request, plan: StepPlan, count: int) -> Request:
    """The request as it will be if its first ``count`` drafts are right."""
    if count == 0:
        return request
    other = copy.copy(request)
    other.output = request.output + list(plan.drafts[request][:count])
    return other
