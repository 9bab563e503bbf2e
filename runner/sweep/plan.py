"""The jobs of a sweep in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One configuration of a sweep: all its overrides, and of them those that set it apart, key to value in Hydra's
    grammar."""

    number: int
    overrides: tuple[str, ...]
    settings: Mapping[str, str]

    @property
    def label(self) -> str:
        """The settings as one line of text."""
        pairs = (f"{key.lstrip('+')}={value}" for key, value in self.settings.items())
        return ", ".join(pairs).replace("\n", "\\n") or "as it is"


@dataclass(frozen=True)
class PlannedJob:
    """One job of the sweep.

    Args:
        number: its place, from 1.
        variant: the configuration.
        repeat: which repeat of it, from 1; warm-ups count by themselves.
        warmup: left out of every statistic.
        identity: hash of what it does; ``None`` where the configuration is wrong.
        trial: the search's number for it, if it belongs to a search.
    """

    number: int
    variant: Variant
    repeat: int
    warmup: bool
    identity: str | None = None
    trial: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As the sweep's manifest has it."""
        return {
            "number": self.number,
            "variant": self.variant.number,
            "settings": dict(self.variant.settings),
            "overrides": list(self.variant.overrides),
            "repeat": self.repeat,
            "warmup": self.warmup,
            "identity": self.identity,
            "trial": self.trial,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PlannedJob:
        """Back from the manifest."""
        variant = Variant(data["variant"], tuple(data["overrides"]), data["settings"])
        return cls(data["number"], variant, data["repeat"], data["warmup"], data["identity"], data["trial"])


def interleaved(variants: Sequence[Variant], repeats: int, warmup: int) -> Iterator[tuple[Variant, int, bool]]:
    """Variant, repeat and whether it is a warm-up: A1 B1 A2 B2. Whatever drifts while a sweep runs (clocks, heat,
    other load) then touches all variants alike, and the n-th repeats are pairs."""
    for is_warmup, times in ((True, warmup), (False, repeats)):
        for repeat in range(1, times + 1):
            for variant in variants:
                yield variant, repeat, is_warmup
