"""A smaller model drafts, the target checks: two runners over the same blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.execute.logits_processing import Masks
from engine.execute.runner import Launched
from engine.execute.swap import CachedRunner
from engine.schedule.plan import Slice, StepPlan
from engine.schedule.request import Request, Status


class DraftModelRunner:
    """Replaces the drafts of a plan, which are but a number of them, by tokens of the draft model.

    The draft model's cache has the target's block numbers: both compute the same slices, so that prefix cache hits,
    preemption and swap hold for both. It draws with the noise that the target will draw with at the same positions, so
    that sampled drafts are right about as often as greedy ones. If its cache should lack something, drafts get worse,
    and nothing else.
    """

    def __init__(self, target: CachedRunner, draft: CachedRunner) -> None:
        """Take over both runners, whose caches have equal numbers of blocks of equal size."""
        self.target = target
        self.draft = draft
        self.device = target.device
        self.caches = [*target.caches, *draft.caches]
        # Tokens that the draft model has cached, of requests drafted when they were last in a step.
        self._reached: dict[Request, int] = {}

    def launch(self, plan: StepPlan, masks: Masks | None = None) -> Launched:
        """Draft, then start the step that checks the drafts. ``masks``: of grammars, whose requests are not drafted."""
        return self.target.launch(replace(plan, drafts=self._drafts(plan)), masks)

    def runs_ahead(self, plan: StepPlan) -> bool:
        """Never: the draft model goes on from tokens that the host knows."""
        return False

    def numerics(self) -> Mapping[str, str]:
        """The target's: tokens do not depend on drafts."""
        return self.target.numerics()

    def _drafts(self, plan: StepPlan) -> dict[Request, list[int]]:
        """Compute what the plan computes, and then a token for each draft."""
        # A prompt that came as the target's embeddings means nothing to the draft model, and is never drafted for.
        first = [self._known(plan, part) for part in plan.computing if part.request.embeds is None]
        if not first:
            return {}
        found = self.draft.launch(StepPlan(first, copies=plan.copies)).result().tokens
        drafts = {request: [found[request]] for request in plan.drafts}
        epochs = {part.request: part.epoch for part in first}
        for count in range(1, max(map(len, plan.drafts.values()), default=0)):
            asking = [request for request, wanted in plan.drafts.items() if len(wanted) > count]
            parts = [Slice(r, r.total + count - 1, r.total + count, True, epochs[r]) for r in asking]
            found = self.draft.launch(StepPlan(parts, drafts={r: drafts[r] for r in asking})).result().tokens
            for request in asking:
                drafts[request].append(found[request])
        # The last draft's own key and value are not computed; if it is right, they are in the next step.
        idle = {r: at for r, at in self._reached.items() if r not in epochs and r.status is not Status.FINISHED}
        self._reached = idle | {request: request.total + len(some) - 1 for request, some in drafts.items()}
        return drafts

    def _known(self, plan: StepPlan, part: Slice) -> Slice:
        """The slice without its drafts, from the first token on that the draft model's cache lacks."""
        request, drafted = part.request, part.request in plan.drafts
        start = min(part.start, self._reached.get(request, part.start))
        return Slice(request, start, request.total if drafted else part.stop, drafted, part.epoch)
