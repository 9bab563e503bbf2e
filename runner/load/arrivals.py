"""When requests arrive: seconds from the load's beginning, decided by kind, rate and seed alone.

Only ``random.Random.random`` is drawn from, whose sequence Python promises to keep, so that the same section gives the
same schedule on every machine and in every version.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
from collections.abc import Iterable, Iterator
from itertools import count, islice, takewhile

from runner.config.load import BurstyLoad, ConstantLoad, OpenLoad


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
        moment += (_exponential(noise) if shape == 1 else _gamma(noise, shape) / shape) / rate
        yield moment


def _exponential(noise: random.Random) -> float:
    return -math.log1p(-noise.random())


def _normal(noise: random.Random) -> float:
    """Box and Muller (1958)."""
    return math.sqrt(2 * _exponential(noise)) * math.cos(2 * math.pi * noise.random())


def _gamma(noise: random.Random, shape: float) -> float:
    """A gamma variate of scale 1: Marsaglia and Tsang (2000), with their boost for shapes below 1."""
    if shape < 1:
        return _gamma(noise, shape + 1) * math.pow(1 - noise.random(), 1 / shape)
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        x = _normal(noise)
        v = (1 + c * x) ** 3
        if v > 0 and math.log(1 - noise.random()) < x * x / 2 + d - d * v + d * math.log(v):
            return d * v
