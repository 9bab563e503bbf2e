"""Random variates that are the same in every version of Python.

They draw from ``random.Random.random`` alone: its sequence is promised to stay, those of the other methods are not.
"""

from __future__ import annotations

import math
import random


def exponential(noise: random.Random) -> float:
    """Of mean 1."""
    return -math.log1p(-noise.random())


def normal(noise: random.Random) -> float:
    """Of mean 0 and variance 1: Box and Muller (1958)."""
    return math.sqrt(2 * exponential(noise)) * math.cos(2 * math.pi * noise.random())


def gamma(noise: random.Random, shape: float) -> float:
    """Of scale 1: Marsaglia and Tsang (2000), with their boost for shapes below 1."""
    if shape < 1:
        return gamma(noise, shape + 1) * math.pow(1 - noise.random(), 1 / shape)
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        x = normal(noise)
        v = (1 + c * x) ** 3
        if v > 0 and math.log(1 - noise.random()) < x * x / 2 + d - d * v + d * math.log(v):
            return d * v
