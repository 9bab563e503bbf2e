"""Generation requests from arrival to output: the loop of schedule, execute, update."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from engine.completion import Completion, named_logprobs
from engine.costs import Cost, DecoderCosts, StepGroups
from engine.execute.runner import Launched, Runner, StepResult
from engine.outputs import RequestMetrics, RequestOutput, TokenLogprobs
from engine.params import SamplingParams
from engine.schedule.limits import Limits
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request, Status
from engine.schedule.scheduler import Scheduler
from engine.seeds import derive_seed
from engine.speculate.proposer import Proposer
from engine.stats import EngineStats, TimelinePoint
from engine.text.inputs import Input, InputError
from engine.text.tokenizer import Tokenizer
from engine.timeline import Timeline

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


@dataclass(eq=False)
class _Generation:
    """A prompt and its completions."""

    request_id: str
    text: str | None
    prompt: list[int]
    completions: list[Completion]
    arrival: float
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])

    @property
    def finished(self) -> bool:
        return all(c.request.status is Status.FINISHED for c in self.completions)


@dataclass(frozen=True)
class _Step:
    """A launched batch."""

    plan: StepPlan
    launched: Launched
    start: float
    cost: Cost


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
        self._generations: dict[Request, _Generation] = {}
        self._completions: dict[Request, Completion] = {}
        self._quiet: set[Request] = set()  # past their first token, with nothing to do per token
        self._next_index = 0
        self._ready = time.monotonic()
        self._booked = self._ready
        self._launched: _Step | None = None
        self._timeline = Timeline()
        self._groups = StepGroups()
        self._totals = EngineStats()

    @property
    def unfinished(self) -> int:
        """Completions that are not finished."""
        return self.scheduler.unfinished

    @property
    def window(self) -> int:
        """Completions worth holding at once: those that run and as many to follow them."""
        return 2 * self.scheduler.limits.max_seqs

    def add(self, request_id: str, prompt: Input, params: SamplingParams) -> None:
        """Queue a prompt.

        Raises:
            InputError: it cannot be run: empty, too long, or with token ids that the model does not have.
        """
        index = self._next_index
        self._next_index += 1
        self._check(prompt, params)
        generation = _Generation(request_id, prompt.text, prompt.token_ids, [], time.monotonic())
        for child in range(params.n):
            request = self._request(index, child, prompt, params)
            completion = Completion(request, self.tokenizer)
            generation.completions.append(completion)
            self._generations[request] = generation
            self._completions[request] = completion
            self.scheduler.add(request)

    def step(self) -> list[RequestOutput]:
        """Plan and launch one batch, and finish the one before it; returns the outputs that are complete now.

        Where the runner runs ahead, the device computes the new batch while this method books the old one. A batch
        whose tokens must be known before the next one can be planned is finished at once.
        """
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
        return outputs

    def _runs_ahead(self, plan: StepPlan) -> bool:
        """Whether the next step may be planned before this one's tokens are known."""
        if self._proposer is not None and (plan.drafts or self._proposer.waits(self.scheduler.running)):
            return False
        return self._ahead and self.runner.runs_ahead(plan)

    def _launch(self, plan: StepPlan) -> _Step:
        start = time.monotonic()
        for part in plan.slices:
            if not part.request.output:  # else it has been scheduled before
                generation = self._generations[part.request]
                generation.scheduled = generation.scheduled or start
        step = _Step(plan, self.runner.launch(plan), start, self.model.costs.step(plan, self._shared_tokens()))
        self.scheduler.advance(plan)
        return step

    def _shared_tokens(self) -> int:
        """Cached tokens that a block holds for more than one running request, once for each but the first."""
        scheduler = self.scheduler
        listed = sum(len(request.blocks) for request in scheduler.running)
        return max(0, listed - scheduler.kv.pool.held) * scheduler.limits.block_size

    def _finish_launched(self) -> list[RequestOutput]:
        """Wait for the launched batch, if there is one, and book it."""
        step, self._launched = self._launched, None
        if step is None:
            return []
        result = step.launched.result()
        now = time.monotonic()
        alive = [request for request in result.tokens if request.status is not Status.FINISHED]
        accepted = {request: drafts.tokens for request, drafts in result.accepted.items()}
        known = {request: len(request.output) - request.pending for request in accepted}
        finished = self.scheduler.update(step.plan, result.tokens, accepted)
        self._book_prompts(step.plan, result)
        finished += self._book(alive, result, now)
        drawn = len(alive) + sum(len(r.output) - known[r] - 1 for r in alive if r in known)
        self._count(step, result, drawn, len(finished), now)
        if self._proposer is not None and accepted:
            self._proposer.learn(step.plan, {request: len(drafts) for request, drafts in accepted.items()})
        self._booked = now
        return self._collect(finished, now)

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a prompt's unfinished completions now; gives what there is of them, with the finish reason ``abort``.

        ``None`` where no unfinished prompt has this id. What a launched step still draws for it is dropped.
        """
        generation = next((g for g in self._generations.values() if g.request_id == request_id), None)
        if generation is None:
            return None
        generation.last_token = generation.first_token and self._booked
        for completion in generation.completions:
            self.scheduler.finish(completion.request, "abort")
            self._quiet.discard(completion.request)
            del self._generations[completion.request], self._completions[completion.request]
        return self._output(generation)

    def abort_all(self) -> None:
        """Drop every unfinished request."""
        self._finish_launched()
        for request in list(self._generations):
            self.scheduler.finish(request, "abort")
        self._generations.clear()
        self._quiet.clear()
        self._completions.clear()

    def stats(self) -> EngineStats:
        """Totals and the present state."""
        pool = self.scheduler.kv.pool
        return replace(
            self._totals,
            preemptions=self.scheduler.preemptions,
            recomputed_tokens=self.scheduler.recomputed_tokens,
            swapped_out=self.scheduler.kv.swapped_out,
            swapped_in=self.scheduler.kv.swapped_in,
            running=len(self.scheduler.running),
            waiting=self.scheduler.waiting,
            kv_blocks_total=pool.size,
            kv_blocks_used=pool.held,
            step_groups=self._groups.groups(),
            timeline=self._timeline.points(),
        )

    def reset_prefix_cache(self) -> None:
        """Forget all cached prompt beginnings."""
        self.scheduler.kv.pool.forget_all()

    def _check(self, prompt: Input, params: SamplingParams) -> None:
        ids, limit = prompt.token_ids, self.model.max_model_len
        if not ids:
            raise InputError("the prompt is empty: it must have at least one token")
        if len(ids) >= limit:
            raise InputError(
                f"the prompt has {len(ids)} tokens; max_model_len={limit} leaves room for at most {limit - 1}"
            )
        for name, values in (("prompt token", ids), ("stop_token_ids", params.stop_token_ids or ())):
            wrong = next((x for x in values if not 0 <= x < self.model.vocab_size), None)
            if wrong is not None:
                raise InputError(
                    f"{name} id {wrong} is not in the vocabulary: ids go from 0 to {self.model.vocab_size - 1}"
                )
        unready = next((name for name in UNREADY if getattr(params, name)), None)
        if unready is not None:
            raise InputError(f"{unready}={getattr(params, unready)!r} is not supported yet")
        if params.stop_strings and self.tokenizer is None:
            raise InputError("stop strings need a tokenizer, but skip_tokenizer_init is set: use stop_token_ids")

    def _request(self, index: int, child: int, prompt: Input, params: SamplingParams) -> Request:
        room = self.model.max_model_len - len(prompt.token_ids)
        stop_ids = frozenset(params.stop_token_ids or ())
        seed = derive_seed(self.model.seed, index) if params.seed is None else params.seed
        return Request(
            index=index,
            child=child,
            prompt=prompt.token_ids,
            params=params if child == 0 else replace(params, prompt_logprobs=None),  # the prompt is scored once
            max_output=room if params.max_tokens is None else min(params.max_tokens, room),
            stop_ids=stop_ids if params.ignore_eos else stop_ids | self.model.eos_ids,
            seed=(seed + child) & MAX_SEED,
            priority=prompt.priority,
            salt=prompt.cache_salt.encode(),
        )

    def _book_prompts(self, plan: StepPlan, result: StepResult) -> None:
        """Keep log-probabilities of prompt tokens."""
        for part in plan.slices if result.prompt_logprobs else ():
            scored = result.prompt_logprobs.get(part.request)
            if scored and part.request in self._generations:
                known = self._generations[part.request].prompt_logprobs
                # After a preemption the same positions come again; only the new ones count.
                fresh = scored[max(0, len(known) - (part.start + 1)) :]
                known += [named_logprobs(raw, self.tokenizer) for raw in fresh]

    def _book(self, alive: Iterable[Request], result: StepResult, now: float) -> list[Request]:
        """Follow up on the step's tokens: text, stop strings, log-probabilities; gives what a stop string ended."""
        ended = []
        for request in alive:
            if request in self._quiet:
                continue
            generation, completion = self._generations[request], self._completions[request]
            generation.first_token = generation.first_token or now
            if not completion.follows:
                self._quiet.add(request)  # nothing is to be done for it until it ends
                continue
            match = completion.accept(
                result.tokens[request], result.logprobs.get(request), result.accepted.get(request)
            )
            if match is not None:
                del request.output[completion.accepted :]  # what was drawn behind the stop string
                if request.status is not Status.FINISHED:
                    ended.append(request)
                self.scheduler.finish(request, "stop", match.stop)
                request.finish_reason, request.stop_reason = "stop", match.stop
        return ended

    def _collect(self, finished: Iterable[Request], now: float) -> list[RequestOutput]:
        """Outputs of the generations whose last completion has finished now, in order of arrival."""
        outputs = []
        for request in sorted(finished, key=lambda request: (request.index, request.child)):
            self._quiet.discard(request)
            generation = self._generations.get(request)
            if generation is not None and generation.finished:
                generation.last_token = now
                outputs.append(self._output(generation))
                for completion in generation.completions:
                    del self._generations[completion.request], self._completions[completion.request]
        return outputs

    def _output(self, generation: _Generation) -> RequestOutput:
        first = generation.completions[0].request
        return RequestOutput(
            request_id=generation.request_id,
            prompt=generation.text,
            prompt_token_ids=tuple(generation.prompt),
            outputs=tuple(completion.output() for completion in generation.completions),
            prompt_logprobs=None if first.params.prompt_logprobs is None else tuple(generation.prompt_logprobs),
            metrics=RequestMetrics(
                arrival=generation.arrival,
                scheduled=generation.scheduled,
                first_token=generation.first_token,
                last_token=generation.last_token,
                preemptions=sum(completion.request.preemptions for completion in generation.completions),
            ),
            num_cached_tokens=first.cached_tokens,
        )

    def _count(self, step: _Step, result: StepResult, drawn: int, finished: int, now: float) -> None:
        old, pool, plan, cost = self._totals, self.scheduler.kv.pool, step.plan, step.cost
        seconds = now - max(step.start, self._booked)
        device = old.device_busy_seconds
        if result.device_seconds is not None:
            device = (device or 0.0) + result.device_seconds
        started = [
            request
            for request, start, _, _, epoch in plan.slices
            if start == request.cached_tokens and epoch == request.preemptions == 0
        ]
        self._totals = replace(
            old,
            steps=old.steps + 1,
            prompt_tokens=old.prompt_tokens + sum(len(request.prompt) for request in started),
            cached_tokens=old.cached_tokens + sum(request.cached_tokens for request in started),
            computed_tokens=old.computed_tokens + plan.tokens,
            drafts=old.drafts + len(plan.drafts),
            drafted_tokens=old.drafted_tokens + sum(map(len, plan.drafts.values())),
            accepted_tokens=old.accepted_tokens + sum(len(drafts.tokens) for drafts in result.accepted.values()),
            output_tokens=old.output_tokens + drawn,
            finished_requests=old.finished_requests + finished,
            peak_running=max(old.peak_running, len(plan.slices)),
            peak_kv_blocks=max(old.peak_kv_blocks, pool.held),
            busy_seconds=old.busy_seconds + seconds,
            device_busy_seconds=device,
            flops=old.flops + cost.flops,
            bytes=old.bytes + cost.bytes,
        )
        self._groups.add(cost, seconds)
        self._timeline.add(
            TimelinePoint(
                time=now - self._ready,
                running=len(plan.slices),
                waiting=self.scheduler.waiting,
                kv_use=pool.held / pool.size,
                output_tokens=self._totals.output_tokens,
            )
        )

    def describe(self) -> Mapping[str, str]:
        """What the tokens depend on beside the recipe: device, dtype, kernels and their constants."""
        return self.runner.numerics()
