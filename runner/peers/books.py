"""What a peer's totals are made of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.outputs import RequestOutput
from engine.stats import EngineStats, TimelinePoint


@dataclass
class Books:
    """Counts of one peer. ``about`` and ``numerics`` describe what computed; written by the run loop alone."""

    about: Mapping[str, str]
    numerics: Mapping[str, str]
    startup: Mapping[str, float]
    ready: float = field(default_factory=time.monotonic)
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    finished: int = 0
    running: int = 0
    waiting: int = 0
    peak: int = 0
    busy_seconds: float = 0.0
    timeline: list[TimelinePoint] = field(default_factory=list)

    def finish(self, output: RequestOutput) -> RequestOutput:
        """Count a finished output, and give it on."""
        self.finished += 1
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens
        self.output_tokens += sum(len(one.token_ids) for one in output.outputs)
        return output

    def note(self, tokens: int | None = None, moment: float | None = None) -> None:
        """A point of the timeline; ``tokens`` counts output tokens so far, where not only finished ones are known."""
        self.peak = max(self.peak, self.running)
        when = (time.monotonic() if moment is None else moment) - self.ready
        made = self.output_tokens if tokens is None else tokens
        self.timeline.append(TimelinePoint(when, self.running, self.waiting, 0.0, made))

    def stats(self) -> EngineStats:
        """Totals so far. Peers tell nothing of their cache, and nothing is counted towards a roofline."""
        return EngineStats(
            steps=self.steps,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            computed_tokens=self.prompt_tokens - self.cached_tokens + self.output_tokens,
            output_tokens=self.output_tokens,
            finished_requests=self.finished,
            running=self.running,
            waiting=self.waiting,
            peak_running=self.peak,
            busy_seconds=self.busy_seconds,
            startup=self.startup,
            device=self.about,
            numerics=self.numerics,
            timeline=tuple(self.timeline),
        )
