"""The load sections: when requests arrive, when they stop to, and what counts as good."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from runner.config.sections import Section

FEWEST_LIMITS = 10  # a trial of a search is at least so many times as long as its limit
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GoodputLimits(Section):
    """What a request must keep to in order to count as good, in ms; ``null`` is no limit."""

    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    e2e_ms: Positive | None = None

    @property
    def declared(self) -> dict[str, float]:
        """The limits that there are, by their metric's name."""
        return {name: value for name, value in self if value is not None}


class OfflineLoad(Section):
    """All rows at once, as fast as the engine takes them."""

    kind: Literal["offline"] = "offline"


class OnlineLoad(Section):
    """What every load has whose requests arrive one by one; ``kind`` says how.

    Args:
        warmup: so many requests come first and are in no figure.
        stream: read each output token by token, as a chat's user does; False waits for whole outputs.
        goodput: the limits of a good request.
    """

    kind: str
    warmup: Annotated[int, Field(ge=0)] = 0
    stream: bool = True
    goodput: GoodputLimits = GoodputLimits()


class TimedLoad(OnlineLoad):
    """A load that may end by the clock; without ``duration_s`` it ends with the dataset."""

    duration_s: Positive | None = None


class ConcurrencyLoad(TimedLoad):
    """``users`` requests are under way at any time: each user sends the next one when its last one is answered."""

    kind: Literal["concurrency"] = "concurrency"
    users: Annotated[int, Field(ge=1)] = 8


class ScheduledLoad(TimedLoad):
    """Requests at moments that are known before. Sent later than ``max_lag_ms`` (99th percentile), the timings are
    INVALID: the runner itself could not keep up."""

    rate: Positive = 1.0
    max_lag_ms: Positive = 50.0


class ConstantLoad(ScheduledLoad):
    """A request every 1/rate seconds, whatever became of those before."""

    kind: Literal["constant"] = "constant"


class PoissonLoad(ScheduledLoad):
    """Independent users: exponential gaps between requests, 1/rate seconds on average."""

    kind: Literal["poisson"] = "poisson"
    seed: int = 0


class BurstyLoad(ScheduledLoad):
    """Gamma distributed gaps of shape ``burstiness``: below 1 in bursts, 1 is ``poisson``, above 1 more even."""

    kind: Literal["bursty"] = "bursty"
    burstiness: Positive = 0.5
    seed: int = 0


class SaturationLoad(OnlineLoad):
    """Poisson trials at rates between ``rate_min`` and ``rate_max``: the highest one at which enough requests are good.

    Args:
        rate_min: requests/s of the first trial.
        rate_max: requests/s of the second one; then what lies between is halved (as ratios).
        resolution: the search ends once the rates that hold and that do not are this close to each other: 0.05 is 5 %.
        trial_requests: of each trial. Trials take the dataset's rows one after the other.
        attainment: share of a trial's requests that must be good.
    """

    kind: Literal["saturation"] = "saturation"
    rate_min: Positive = 1.0
    rate_max: Positive = 64.0
    resolution: Annotated[float, Field(gt=0, le=1)] = 0.05
    trial_requests: Annotated[int, Field(ge=10)] = 200
    attainment: Annotated[float, Field(gt=0, le=1)] = 0.99
    seed: int = 0
    max_lag_ms: Positive = 50.0

    @model_validator(mode="after")
    def _searchable(self) -> SaturationLoad:
        if self.rate_min >= self.rate_max:
            raise ValueError(f"rate_min={self.rate_min:g} is not below rate_max={self.rate_max:g}")
        if not self.goodput.declared:
            raise ValueError("goodput has no limit, and a search needs one: ttft_ms, tpot_ms or e2e_ms")
        # Above saturation the queue grows all the time; in a trial that is short beside the limits it stays below them.
        limit = max(self.goodput.ttft_ms or 0.0, self.goodput.e2e_ms or 0.0) / 1e3
        needed = math.ceil(FEWEST_LIMITS * limit * self.rate_max)
        if self.trial_requests < needed:
            raise ValueError(
                f"trial_requests={self.trial_requests} is over in {self.trial_requests / self.rate_max:.2g} s at "
                f"rate_max={self.rate_max:g}, too soon to see a queue outgrow a limit of {limit:g} s: at least {needed}"
            )
        return self

    @property
    def most_trials(self) -> int:
        """How many trials the search can take."""
        span = math.log(self.rate_max / self.rate_min) / math.log1p(self.resolution)
        return 2 + max(0, math.ceil(math.log2(span))) if span > 1 else 2


OpenLoad = ConstantLoad | PoissonLoad | BurstyLoad
LoadSection = Annotated[
    OfflineLoad | ConcurrencyLoad | ConstantLoad | PoissonLoad | BurstyLoad | SaturationLoad,
    Field(discriminator="kind"),
]
