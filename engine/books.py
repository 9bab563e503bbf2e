"""What every prompt in the engine has so far: times, log-probabilities, and its completions while they grow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from engine.completion import Completion, Gain
from engine.execute.runner import StepResult
from engine.flat_logprobs import given_as
from engine.logprobs import PositionLogprobs
from engine.outputs import RequestMetrics, RequestOutput
from engine.schedule.plan import StepPlan
from engine.schedule.request import Request, Status
from engine.schedule.scheduler import Scheduler
from engine.structured.masks import GrammarMasks
from engine.text.tokenizer import Tokenizer


@dataclass(eq=False)
class Generation:
    """A prompt and its completions."""

    request_id: str
    text: str | None
    prompt: list[int]
    completions: Sequence[Completion]
    arrival: float
    queued: float
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    prompt_logprobs: list[PositionLogprobs | None] = field(default_factory=lambda: [None])
    error: str | None = None

    @property
    def finished(self) -> bool:
        """Whether every completion has ended."""
        return all(c.request.status is Status.FINISHED for c in self.completions)

    def head(self) -> RequestOutput:
        """The prompt without its completions; with log-probabilities once all of them are there."""
        first = self.completions[0].request
        scored = first.params.prompt_logprobs is not None and len(self.prompt_logprobs) == len(self.prompt)
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.text,
            prompt_token_ids=list(self.prompt),
            outputs=[],
            finished=False,
            prompt_logprobs=given_as(self.prompt_logprobs, first.params.flat_logprobs) if scored else None,
            metrics=RequestMetrics(
                arrival=self.arrival,
                queued=self.queued,
                scheduled=self.scheduled,
                first_token=self.first_token,
                last_token=self.last_token,
                preemptions=sum(completion.request.preemptions for completion in self.completions),
            ),
            num_cached_tokens=first.cached_tokens,
            error=self.error,
        )

    def output(self) -> RequestOutput:
        """The prompt and its completions, which have ended."""
        return replace(self.head(), outputs=[completion.output() for completion in self.completions], finished=True)


News = RequestOutput | Gain


class Books:
    """The generations that are not finished; what a step computed is entered here after the scheduler knows it.

    What streams has gained is collected in ``news``: for each completion the head of its prompt, then its gains.
    """

    def __init__(self, scheduler: Scheduler, masks: GrammarMasks, tokenizer: Tokenizer | None) -> None:
        self._scheduler = scheduler
        self._masks = masks
        self._tokenizer = tokenizer
        self._news: list[News] = []
        self._by_id: dict[str, Generation] = {}
        self._generations: dict[Request, Generation] = {}
        self._completions: dict[Request, Completion] = {}
        self._quiet: set[Request] = set()  # past their first token, with nothing to do per token

    def open(self, generation: Generation) -> None:
        """Begin to follow a prompt, whose id no other one has."""
        self._by_id[generation.request_id] = generation
        for completion in generation.completions:
            self._generations[completion.request] = generation
            self._completions[completion.request] = completion

    def find(self, request_id: str) -> Generation | None:
        """The unfinished prompt of this id."""
        return self._by_id.get(request_id)

    def close(self, generation: Generation) -> None:
        """Follow a prompt no longer."""
        del self._by_id[generation.request_id]
        for completion in generation.completions:
            self._quiet.discard(completion.request)
            self._masks.forget(completion.request)
            del self._generations[completion.request], self._completions[completion.request]

    def clear(self) -> list[Request]:
        """Follow nothing any longer; gives the requests that were followed."""
        requests = list(self._generations)
        for generation in dict.fromkeys(self._generations.values()):
            self.close(generation)
        self._news.clear()
        return requests

    def begin(self, plan: StepPlan, now: float) -> None:
        """Note when the prompts of a plan ran first."""
        for part in plan.slices:
            if not part.request.output:  # else it has been scheduled before
                generation = self._generations[part.request]
                generation.scheduled = generation.scheduled or now

    def enter(self, plan: StepPlan, alive: Sequence[Request], result: StepResult, now: float) -> list[Request]:
        """Follow up on the tokens of the requests that were ``alive``: text, stop strings, log-probabilities.

        Gives the requests that ended by that: at a stop string, or where their grammar cannot go on.
        """
        if result.prompt_logprobs:
            self._enter_prompts(plan, result)
        ended = self._end_failed(alive)
        for request in alive:
            if request in self._quiet:
                continue
            generation, completion = self._generations[request], self._completions[request]
            generation.first_token = generation.first_token or now
            if not completion.follows:
                self._quiet.add(request)  # nothing is to be done for it until it ends
                continue
            stop = completion.accept(result.tokens[request], result.logprobs.get(request), result.accepted.get(request))
            if stop is not None:
                del request.output[completion.accepted :]  # what was drawn behind the stop string
                if self._scheduler.finish(request, "stop", stop):
                    ended.append(request)
            if completion.streams:
                self._tell(generation, completion)
        return ended

    def abort(self, generation: Generation) -> RequestOutput:
        """End what has not ended of a prompt; gives all that there is of it."""
        for completion in generation.completions:
            if self._scheduler.finish(completion.request, "abort"):
                completion.end()
                if completion.streams:
                    self._tell(generation, completion)
        self.close(generation)
        return generation.output()

    def news(self) -> list[News]:
        """What streams have gained since this was last asked."""
        news, self._news = self._news, []
        return news

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

    def _tell(self, generation: Generation, completion: Completion) -> None:
        if not completion.told:
            self._news.append(generation.head())
        self._news.append(completion.gain(generation.request_id))

    def _end_failed(self, alive: Iterable[Request]) -> list[Request]:
        """End requests whose grammars cannot go on; gives those that nothing else has ended."""
        ended = []
        for request in alive if self._masks else ():
            error = self._masks.error(request)
            if error is not None:
                generation = self._generations[request]
                generation.error = generation.error or error
                if self._scheduler.finish(request, "error"):
                    ended.append(request)
        return ended

    def _enter_prompts(self, plan: StepPlan, result: StepResult) -> None:
        """Keep log-probabilities of prompt tokens."""
        for part in plan.slices:
            scored = result.prompt_logprobs.get(part.request)
            if scored and part.request in self._generations:
                known = self._generations[part.request].prompt_logprobs
                # After a preemption the same positions come again; only the new ones count.
                fresh = scored[max(0, len(known) - (part.start + 1)) :]
                known += [PositionLogprobs(raw, self._tokenizer) for raw in fresh]
