"""Generation requests from arrival to output: the loop of schedule, execute, update."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from engine.books import Books, Generation, News
from engine.completion import Completion
from engine.execute.runner import Runner
from engine.held import Held, HeldRequests
from engine.intake import GenerationModel, Intake
from engine.outputs import RequestOutput
from engine.params import SamplingParams
from engine.schedule.limits import Limits
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request, Status
from engine.schedule.scheduler import Scheduler
from engine.speculate.proposer import Proposer
from engine.stats import EngineStats
from engine.step_counts import Step, StepCounts
from engine.structured.compiler import Grammar
from engine.structured.masks import GrammarMasks
from engine.text.inputs import Input, InputError
from engine.text.tokenizer import Tokenizer

__all__ = ["GenerationCore", "GenerationModel"]


class GenerationCore:
    """Owns the scheduler and the model runner; one ``step`` computes one batch."""

    def __init__(
        self,
        model: GenerationModel,
        runner: Runner,
        limits: Limits,
        tokenizer: Tokenizer | None,
        ahead: bool = True,
        proposer: Proposer | None = None,
    ) -> None:
        """Take the runner over; ``ahead`` lets it start a step before the one before it is booked, ``proposer`` drafts
        tokens for it to check."""
        self.model = model
        self._proposer = proposer
        self._ahead = ahead
        self.runner = runner
        self.scheduler = Scheduler(limits)
        self.tokenizer = tokenizer
        self._intake = Intake(model, tokenizer)
        self._masks = GrammarMasks()
        self._held = HeldRequests()
        self._books = Books(self.scheduler, self._masks, tokenizer)
        self._counts = StepCounts(self.scheduler, time.monotonic())
        self._next_index = 0
        self._launched: Step | None = None

    @property
    def unfinished(self) -> int:
        """Completions that are not finished."""
        return self.scheduler.unfinished

    @property
    def window(self) -> int:
        """Completions worth holding at once: those that run and as many to follow them."""
        return 2 * self.scheduler.limits.max_seqs

    def add(
        self,
        request_id: str,
        prompt: Input,
        params: SamplingParams,
        *,
        streams: bool = False,
        seed_index: int | None = None,
        arrival: float | None = None,
    ) -> None:
        """Queue a prompt. It waits in line until its grammar is compiled, if it has one; where that fails, ``step``
        gives an output without completions that says why.

        Args:
            request_id: no other unfinished prompt may have it.
            prompt: token ids, and what goes with them.
            params: of all its completions.
            streams: tell of every token in ``news``; ``step`` gives the finished output all the same.
            seed_index: the number that noise is drawn by where ``params`` name no seed; ``None`` takes the prompt's
                own, in order of arrival.
            arrival: when the engine was asked, on ``time.monotonic``'s clock; ``None`` is now.

        Raises:
            InputError: it cannot be run: empty, too long, with token ids that the model does not have, or the form that
                its output must have is known not to compile.
            ValueError: the id is in use.
        """
        if self._books.find(request_id) is not None:
            raise ValueError(f"request id {request_id!r} is in use by an unfinished prompt")
        index = self._next_index
        self.pass_over()  # refused or not: the noise of those that follow must not depend on it
        if prompt.priority and self.scheduler.limits.policy != "priority":
            raise InputError(f"priority={prompt.priority} needs scheduling_policy='priority'; leave it out or 0")
        prompt = prompt.kept(params.truncate_prompt_tokens, self.model.max_model_len - 1)
        requests = self._intake.requests(index, prompt, params, seed_index)
        grammar = self._intake.grammar(requests[0])
        if grammar is not None:
            if grammar.done():
                self._follow(requests, grammar.result())
            else:
                self._held.add(Held(request_id, requests, grammar))
        completions = [Completion(request, self.tokenizer, streams) for request in requests]
        now = time.monotonic()
        self._books.open(
            Generation(
                request_id, prompt.text, prompt.token_ids, completions, now if arrival is None else arrival, queued=now
            )
        )
        for request in requests:
            self.scheduler.add(request)

    def pass_over(self) -> None:
        """Count a prompt that never comes, because it cannot be read, so that the next ones keep their numbers."""
        self._next_index += 1

    def prepare(self, params: Iterable[SamplingParams]) -> None:
        """Begin with what requests that come soon need compiled, in another thread."""
        self._intake.prepare(params)

    def step(self) -> list[RequestOutput]:
        """Plan and launch one batch, and finish the one before it; returns the outputs that are complete now.

        Where the runner runs ahead, the device computes the new batch while this method books the old one. A batch
        whose tokens must be known before the next one can be planned is finished at once.
        """
        refusals = self._release()
        try:
            drafts = {} if self._proposer is None else self._proposer.drafts(self.scheduler.running)
            plan = self.scheduler.schedule(drafts)
            launched = self._launch(plan) if plan.slices else None
            outputs = self._finish_launched()
            self._launched = launched
            if launched is not None and not self._runs_ahead(plan):
                outputs += self._finish_launched()
        except BaseException:
            self.reset_prefix_cache()  # it names blocks that a planned step would have written
            raise
        return refusals + outputs

    def _release(self) -> list[RequestOutput]:
        """Let those start whose grammars are compiled; gives the outputs of those whose grammars cannot be."""
        refusals = []
        for request_id, requests, grammar in self._held.ready(self.scheduler.unfinished):
            error = grammar.exception()
            if error is None:
                self._follow(requests, grammar.result())
                continue
            generation = self._books.find(request_id)
            assert generation is not None
            for request in requests:
                self.scheduler.finish(request, "abort")
            self._books.close(generation)
            told = str(error) if isinstance(error, InputError) else repr(error)
            refusals.append(replace(generation.head(), finished=True, metrics=None, error=told))
        return refusals

    def _follow(self, requests: Sequence[Request], grammar: Grammar) -> None:
        """Make outputs follow a grammar."""
        for request in requests:
            self._masks.add(request, grammar.start(self._intake.end_ids(request)))
            request.held = False

    def _runs_ahead(self, plan: StepPlan) -> bool:
        """Whether the next step may be planned before this one's tokens are known."""
        if self._proposer is not None and (plan.drafts or self._proposer.waits(self.scheduler.running)):
            return False
        return self._ahead and self.runner.runs_ahead(plan)

    def _launch(self, plan: StepPlan) -> Step:
        start = time.monotonic()
        self._books.begin(plan, start)
        before = self._launched
        pending = None if before is None else lambda: before.launched.result().tokens
        masks = self._masks.of(plan, pending, beside=not self.runner.runs_ahead(plan)) if self._masks else None
        step = Step(plan, self.runner.launch(plan, masks), start, self.model.costs.step(plan, self._shared_tokens()))
        self.scheduler.advance(plan)
        return step

    def _shared_tokens(self) -> int:
        """Cached tokens that a block holds for more than one running request, once for each but the first."""
        scheduler = self.scheduler
        listed = sum(len(request.blocks) for request in scheduler.running)
        used = scheduler.kv.pool.held - len(scheduler.kv.prompts.parked())
        return max(0, listed - used) * scheduler.limits.block_size

    def _finish_launched(self) -> list[RequestOutput]:
        """Wait for the launched batch, if there is one, and book it."""
        step, self._launched = self._launched, None
        if step is None:
            return []
        result = step.launched.result()
        now = time.monotonic()
        alive = [request for request in result.tokens if request.status is not Status.FINISHED]
        accepted = {request: drafts.tokens for request, drafts in result.accepted.items()}
        known = {r: len(r.output) - r.pending for r in accepted if r.status is not Status.FINISHED}
        finished = self.scheduler.update(step.plan, result.tokens, accepted)
        finished += self._books.enter(step.plan, alive, result, now)
        drawn = len(alive) + sum(len(request.output) - before - 1 for request, before in known.items())
        self._counts.add(step, result, drawn, len(finished), now)
        if self._proposer is not None and accepted:
            self._proposer.learn(step.plan, {request: len(drafts) for request, drafts in accepted.items()})
        return self._books.collect(finished, now)

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a prompt's unfinished completions now; gives what there is of them, with the finish reason ``abort``.

        ``None`` where no unfinished prompt has this id. What a launched step still draws for it is dropped.
        """
        generation = self._books.find(request_id)
        if generation is None:
            return None
        generation.last_token = generation.first_token and self._counts.booked
        return self._books.abort(generation)

    def news(self) -> list[News]:
        """What streams have gained since this was last asked: a prompt's head, then gains of its completions."""
        return self._books.news()

    def settle(self) -> list[RequestOutput]:
        """Finish the batch that is under way, where nothing is unfinished and so no step follows."""
        return self._finish_launched()

    def abort_all(self) -> None:
        """Drop every unfinished request."""
        self._finish_launched()
        for request in self._books.clear():
            self.scheduler.finish(request, "abort")

    def stats(self) -> EngineStats:
        """Totals and the present state."""
        return self._counts.stats()

    def reset_prefix_cache(self) -> None:
        """Forget all cached prompt beginnings."""
        self.scheduler.kv.pool.forget_all()

    def describe(self) -> Mapping[str, str]:
        """What the tokens depend on beside the recipe: device, dtype, kernels and their constants."""
        return self.runner.numerics()
