"""Figures as people read them: three or four significant digits, thousands separated, a dash for none."""

from __future__ import annotations

import math
from datetime import UTC, datetime

NONE = "\N{EN DASH}"


def number(value: float | int | None) -> str:
    """``1234567`` as ``1,234,567``, ``3.14159`` as ``3.14``, ``0.00123`` as ``0.00123``."""
    if value is None:
        return NONE
    if isinstance(value, int) or value == 0 or abs(value) >= 1000:
        return f"{round(value):,}"
    rounded = float(f"{value:.2e}")  # first, because 99.96 has another power of ten once it is rounded
    decimals = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def share(value: float | None) -> str:
    """``0.1234`` as ``12.3 %``."""
    if value is None:
        return NONE
    percent = value * 100
    return f"{percent:.0f} %" if percent == round(percent) else f"{number(percent)} %"


def figure(value: float | int | None, unit: str) -> str:
    """A metric's value without its unit, except that shares become percentages."""
    return share(value) if unit == "share" else number(value)


def unit_label(unit: str) -> str:
    """The unit to print after a figure; percentages carry their own, and a count's title says what it counts."""
    return "" if unit in ("share", "rows", "tokens", "requests", "times", "sessions") else unit


def utc(seconds: float) -> str:
    """Seconds since the epoch as ``2025-01-31 12:00:00 UTC``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and how much was left out."""
    return text if len(text) <= most else f"{text[:most].rstrip()} … (+{len(text) - most:,} characters)"
