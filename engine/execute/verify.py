"""Checks drafts against the tokens drawn in their places.

A draw is a function of the logits, the request's parameters, its seed and the position, and logits do not depend on how
a sequence is cut into steps. So a draft is right exactly if it equals the token that is drawn in its place, and that is
the token that would have been drawn without any drafts. Outputs are the same to the bit, greedy and sampled alike, and
no rejection sampling is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.execute.runner import Accepted, StepResult
from engine.logprobs import RawLogprobs
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request


@dataclass(frozen=True)
class Rows:
    """What the rows of a step's logits are for: ``counts`` of them for each of its slices that ``sampling`` names.

    ``parts``: for each row a slice that ends where the row draws, as if the drafts before were right.
    """

    sampling: Sequence[Slice]
    counts: Sequence[int]
    parts: Sequence[Slice]
    drafts: Mapping[Request, Sequence[int]]

    @classmethod
    def of(cls, plan: StepPlan, sampling: Sequence[Slice]) -> Rows:
        """The rows of a plan, for its slices that sample, in the order in which they are laid out."""
        if not plan.drafts:
            return cls(sampling, (), sampling, plan.drafts)
        counts = [plan.rows(part) for part in sampling]
        parts = [
            part._replace(stop=part.stop - count + row)
            for part, count in zip(sampling, counts, strict=True)
            for row in range(1, count + 1)
        ]
        return cls(sampling, counts, parts, plan.drafts)

    def with_leaders(self, plan: StepPlan) -> list[int]:
        """All rows, then for each of the plan's forks the row that draws from the same logits."""
        first = {part.request: row for row, part in reversed(list(enumerate(self.parts)))}
        return [*range(len(self.parts)), *(first[plan.forks[part.request]] for part in plan.forked)]

    def result(self, tokens: Sequence[int], logprobs: Mapping[int, RawLogprobs]) -> StepResult:
        """The step's result from the token drawn for each row, and log-probabilities by row."""
        if not self.drafts:
            requests = [part.request for part in self.parts]
            return StepResult(
                dict(zip(requests, tokens, strict=True)), {requests[row]: one for row, one in logprobs.items()}
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
