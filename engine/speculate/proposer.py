"""Who drafts what: the drafts of every running request, as many as they were worth of late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.schedule.plan import StepPlan
from engine.schedule.request import PENDING, Request, Status
from engine.speculate.config import SpeculativeConfig
from engine.speculate.draft_length import DraftLength
from engine.speculate.ngram import NgramIndex

FORGOTTEN = 64  # finished requests that may be remembered before they are swept out


@dataclass(frozen=True, slots=True)
class _Drafting:
    """What is known of one request; ``index`` with the method ``ngram``."""

    length: DraftLength
    index: NgramIndex | None


class Proposer:
    """Offers drafts for the requests that decode, and learns from what became of them.

    With the method ``draft_model`` only the number of drafts is offered, as ``PENDING`` tokens: the runner draws them.
    """

    def __init__(self, config: SpeculativeConfig) -> None:
        self._config = config
        self._known: dict[Request, _Drafting] = {}

    def drafts(self, running: Sequence[Request]) -> dict[Request, list[int]]:
        """Drafts for those of the running requests that are worth any now."""
        self._sweep(len(running))
        offered = {}
        for request in running:
            if request.pending or request.total - request.computed != 1 or not drafts_are_checked(request):
                continue
            drafting = self._known.get(request) or self._begin(request)
            count = min(drafting.length.drafts(len(request.output)), request.max_output - len(request.output) - 1)
            drafts = _look_up(request, drafting.index, count) if drafting.index is not None else [PENDING] * count
            if drafts:
                offered[request] = drafts
        return offered

    def waits(self, running: Sequence[Request]) -> bool:
        """Whether some request may be worth drafts in the next step, so that its tokens must be known before."""
        for request in running:
            if drafts_are_checked(request):
                drafting = self._known.get(request)
                if drafting is None or drafting.length.drafts(len(request.output)):
                    return True
        return False

    def learn(self, plan: StepPlan, accepted: Mapping[Request, int]) -> None:
        """A step is booked: how many drafts of each request were right."""
        for request, drafts in plan.drafts.items():
            if request in self._known:
                self._known[request].length.learn(len(drafts), accepted.get(request, 0), len(request.output))

    def _begin(self, request: Request) -> _Drafting:
        config = self._config
        index = None
        if config.method == "ngram":
            assert config.prompt_lookup_min is not None
            assert config.prompt_lookup_max is not None
            index = NgramIndex(config.prompt_lookup_min, config.prompt_lookup_max)
        self._known[request] = drafting = _Drafting(DraftLength(config.num_speculative_tokens), index)
        return drafting

    def _sweep(self, running: int) -> None:
        """Forget finished requests once they are many: amortised constant time for each."""
        if len(self._known) > 2 * running + FORGOTTEN:
            self._known = {r: drafting for r, drafting in self._known.items() if r.status is not Status.FINISHED}


def drafts_are_checked(request: Request) -> bool:
    """Whether a step can draw several of the request's tokens: not where a grammar's state follows each of them, and
    not behind a prompt without tokens, from which nothing can be guessed."""
    return request.params.structured_outputs is None and request.embeds is None


def _look_up(request: Request, index: NgramIndex, count: int) -> list[int]:
    if count <= 0:
        return []
    index.extend(request.tokens(len(index), request.total))
    return index.propose(count)
