"""Random token ids of declared lengths: the same workload on every machine."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runner.config.dataset import FixedLength, Length, SyntheticDataset, UniformLength
from runner.noise import normal


@dataclass(frozen=True)
class SyntheticRows:
    """Draws every row from (seed, row number) alone, so that any row can be made without those before it."""

    section: SyntheticDataset

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row's ``prompt_token_ids`` and ``max_tokens``."""
        section = self.section
        low, high = section.min_token_id, section.max_token_id
        shared = _tokens(random.Random(f"{section.seed}-prefix"), section.shared_prefix, low, high)
        for index in range(section.rows):
            noise = random.Random(f"{section.seed}-{index}")
            own = _length(section.input_length, noise)
            output = _length(section.output_length, noise)
            yield {"prompt_token_ids": shared + _tokens(noise, own, low, high), "max_tokens": output}

    def declared(self) -> str:
        """sha256 (hex) of the parameters, which decide every row."""
        rows = self.section.model_dump_json(include=DECIDING)
        return hashlib.sha256(f"{GENERATOR} {rows}".encode()).hexdigest()


GENERATOR = 2  # of the rows; another number where the same parameters give others
DECIDING = {"rows", "seed", "input_length", "output_length", "shared_prefix", "min_token_id", "max_token_id"}


def _tokens(noise: random.Random, count: int, low: int, high: int) -> list[int]:
    span, draw = high - low, noise.random
    return [low + int(draw() * span) for _ in range(count)]


def _length(length: Length, noise: random.Random) -> int:
    if isinstance(length, FixedLength):
        return length.tokens
    if isinstance(length, UniformLength):
        return length.min + int(noise.random() * (length.max - length.min + 1))
    return int(min(length.max, max(length.min, math.exp(length.mu + length.sigma * normal(noise)))))
