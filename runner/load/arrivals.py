"""When requests arrive: seconds from the load's beginning, decided by kind, rate and seed alone.

The same section gives the same schedule on every machine and in every version (``runner.noise``).
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterable, Iterator
from itertools import count, islice, takewhile

from runner.config.load import BurstyLoad, ConstantLoad, OpenLoad
from runner.noise import exponential, gamma


def arrivals(load: OpenLoad) -> Iterator[float]:
    """Every request's arrival in seconds, ascending, without end. A constant rate's first one is at 0."""
    if isinstance(load, ConstantLoad):
        return (place / load.rate for place in count())
    shape = load.burstiness if isinstance(load, BurstyLoad) else 1.0
    return _summed(random.Random(load.seed), shape, load.rate)


def arrivals_before(load: OpenLoad, seconds: float) -> int:
    """How many requests arrive before a moment."""
    return sum(1 for _ in takewhile(lambda moment: moment < seconds, arrivals(load)))


def schedule_digest(moments: Iterable[float]) -> str:
    """``sha256:HEX`` of a schedule in whole nanoseconds (of a logarithm's last bit machines may differ)."""
    total = hashlib.sha256()
    for moment in moments:
        total.update(struct.pack("<q", round(moment * 1e9)))
    return "sha256:" + total.hexdigest()


def digest_of(load: OpenLoad, requests: int) -> str:
    """``schedule_digest`` of a load's first requests."""
    return schedule_digest(islice(arrivals(load), requests))


def _summed(noise: random.Random, shape: float, rate: float) -> Iterator[float]:
    """Moments whose gaps are gamma distributed with this shape and a mean of 1/rate; shape 1 is exponential."""
    moment = 0.0
    while True:
        moment += (exponential(noise) if shape == 1 else gamma(noise, shape) / shape) / rate
        yield moment
