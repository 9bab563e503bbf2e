"""Random token ids of declared lengths: the same workload on every machine."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from runner.config.dataset import FixedLength, LognormalLength, SyntheticDataset
from runner.dataset.rows import Malformed, Record


@dataclass(frozen=True)
class SyntheticSource:
    """Draws every row from (seed, row number) alone, so that any row can be made without those before it.

    Columns: ``prompt_token_ids`` and ``max_tokens``.
    """

    section: SyntheticDataset

    def read(self) -> Iterator[Record | Malformed]:
        """Every row as a record."""
        section = self.section
        low, high = section.min_token_id, section.max_token_id
        shared = _tokens(random.Random(f"{section.seed}-prefix"), section.shared_prefix, low, high)
        for index in range(section.rows):
            noise = random.Random(f"{section.seed}-{index}")
            own = _length(section.input_length, noise)
            output = _length(section.output_length, noise)
            yield Record({"prompt_token_ids": shared + _tokens(noise, own, low, high), "max_tokens": output})

    def fingerprint(self) -> str:
        """sha256 of the parameters, which decide every row."""
        return hashlib.sha256(self.section.model_dump_json().encode()).hexdigest()

    def count(self) -> int | None:
        """The number of rows."""
        return self.section.rows

    def describe(self) -> str:
        """Number of rows and seed."""
        return f"synthetic ({self.section.rows} rows, seed {self.section.seed})"


def _tokens(noise: random.Random, count: int, low: int, high: int) -> list[int]:
    return [noise.randrange(low, high) for _ in range(count)]


def _length(length: FixedLength | LognormalLength, noise: random.Random) -> int:
    if isinstance(length, FixedLength):
        return length.tokens
    return int(min(length.max, max(length.min, noise.lognormvariate(length.mu, length.sigma))))
