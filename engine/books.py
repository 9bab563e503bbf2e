"""What every prompt in the engine has so far: times, log-probabilities, and its completions while they grow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.completion import Completion, named_logprobs
from engine.execute.runner import StepResult
from engine.outputs import RequestMetrics, RequestOutput, TokenLogprobs
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request, Status
from engine.schedule.scheduler import Scheduler
from engine.text.tokenizer import Tokenizer


@dataclass(eq=False)
class Generation:
    """A prompt and its completions."""

    request_id: str
    text: str | None
    prompt: list[int]
    completions: Sequence[Completion]
    arrival: float
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])

    @property
    def finished(self) -> bool:
        """Whether every completion has ended."""
        return all(c.request.status is Status.FINISHED for c in self.completions)

    def output(self) -> RequestOutput:
        """The prompt and its completions as they stand."""
        first = self.completions[0].request
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.text,
            prompt_token_ids=tuple(self.prompt),
            outputs=tuple(completion.output() for completion in self.completions),
            prompt_logprobs=None if first.params.prompt_logprobs is None else tuple(self.prompt_logprobs),
            metrics=RequestMetrics(
                arrival=self.arrival,
                scheduled=self.scheduled,
                first_token=self.first_token,
                last_token=self.last_token,
                preemptions=sum(completion.request.preemptions for completion in self.completions),
            ),
            num_cached_tokens=first.cached_tokens,
        )


class Books:
    """The generations that are not finished; what a step computed is entered here after the scheduler knows it."""

    def __init__(self, scheduler: Scheduler, tokenizer: Tokenizer | None) -> None:
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._generations: dict[Request, Generation] = {}
        self._completions: dict[Request, Completion] = {}
        self._quiet: set[Request] = set()  # past their first token, with nothing to do per token

    def open(self, generation: Generation) -> None:
        """Begin to follow a prompt."""
        for completion in generation.completions:
            self._generations[completion.request] = generation
            self._completions[completion.request] = completion

    def find(self, request_id: str) -> Generation | None:
        """The unfinished prompt of this id."""
        return next((g for g in self._generations.values() if g.request_id == request_id), None)

    def close(self, generation: Generation) -> None:
        """Follow a prompt no longer."""
        for completion in generation.completions:
            self._quiet.discard(completion.request)
            del self._generations[completion.request], self._completions[completion.request]

    def clear(self) -> list[Request]:
        """Follow nothing any longer; gives the requests that were followed."""
        requests = list(self._generations)
        self._generations.clear()
        self._completions.clear()
        self._quiet.clear()
        return requests

    def begin(self, plan: StepPlan, now: float) -> None:
        """Note when the prompts of a plan ran first."""
        for part in plan.slices:
            if not part.request.output:  # else it has been scheduled before
                generation = self._generations[part.request]
                generation.scheduled = generation.scheduled or now

    def enter(self, plan: StepPlan, alive: Iterable[Request], result: StepResult, now: float) -> list[Request]:
        """Follow up on the tokens of the requests that were ``alive``: text, stop strings, log-probabilities.

        Gives the requests that a stop string ended.
        """
        if result.prompt_logprobs:
            self._enter_prompts(plan, result)
        ended = []
        for request in alive:
            if request in self._quiet:
                continue
            generation, completion = self._generations[request], self._completions[request]
            generation.first_token = generation.first_token or now
            if not completion.follows:
                self._quiet.add(request)  # nothing is to be done for it until it ends
                continue
            match = completion.accept(result.tokens[request], result.logprobs.get(request))
            if match is not None and self._scheduler.finish(request, "stop", match.stop):
                ended.append(request)
        return ended

    def collect(self, finished: Iterable[Request], now: float) -> list[RequestOutput]:
        """Outputs of the prompts whose last completion has finished now, in order of arrival."""
        outputs = []
        for request in sorted(finished, key=lambda request: (request.index, request.child)):
            self._quiet.discard(request)
            generation = self._generations.get(request)
            if generation is not None and generation.finished:
                generation.last_token = now
                outputs.append(generation.output())
                self.close(generation)
        return outputs

    def _enter_prompts(self, plan: StepPlan, result: StepResult) -> None:
        """Keep log-probabilities of prompt tokens."""
        for part in plan.slices:
            scored = result.prompt_logprobs.get(part.request)
            if scored and part.request in self._generations:
                known = self._generations[part.request].prompt_logprobs
                # After a preemption the same positions come again; only the new ones count.
                fresh = scored[max(0, len(known) - (part.start + 1)) :]
                known += [named_logprobs(raw, self._tokenizer) for raw in fresh]
