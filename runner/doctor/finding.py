"""One line of the doctor's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["OK", "WARN", "FAIL"]
_ORDER: tuple[Level, ...] = ("OK", "WARN", "FAIL")


@dataclass(frozen=True)
class Finding:
    """``fix`` says what to do, and is empty where there is nothing to do."""

    level: Level
    what: str
    found: str
    fix: str = ""


def worst(findings: list[Finding]) -> Level:
    """The most serious level; ``OK`` of nothing."""
    return max((one.level for one in findings), key=_ORDER.index, default="OK")
