"""Scales, ticks and the frame that the charts share; coordinates are SVG user units, origin at the top left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import escape

from runner.report.format import number

Format = Callable[[float], str]


@dataclass(frozen=True)
class Frame:
    """A plot area inside its SVG, and the data range that it shows."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 46
    right: float = 12
    top: float = 14
    bottom: float = 26

    def x(self, value: float) -> float:
        """Data to horizontal position."""
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Data to vertical position; larger values lie higher."""
        low, high = self.y_range
        return self.floor - (value - low) / ((high - low) or 1) * (self.floor - self.top)

    @property
    def floor(self) -> float:
        """Vertical position of the horizontal axis."""
        return self.height - self.bottom


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round values within the range: steps of 1, 2 or 5 times a power of ten (Heckbert 1990)."""
    if high <= low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if rough <= m * power * 1.0000001)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float) -> str:
    """A tick's text: no trailing zeros."""
    return number(int(value)) if value == int(value) else f"{value:g}"


def ceiling(high: float, count: int = 4) -> float:
    """The range's upper end raised to the next tick, so that the top gridline closes the plot."""
    if high <= 0:
        return 1.0
    marks = ticks(0, high, count)
    step = marks[1] - marks[0] if len(marks) > 1 else high
    return math.ceil(high / step - 1e-9) * step


def grid(frame: Frame, x_title: str, y_format: Format = tick_label, y_count: int = 4) -> str:
    """Gridlines, tick labels and the horizontal axis with its title at the right end."""
    parts = []
    for value in ticks(*frame.y_range, y_count):
        y = frame.y(value)
        parts.append(f'<line class="g" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="t e" x="{frame.left - 7}" y="{y + 3.6:.1f}">{escape(y_format(value))}</text>')
    end = frame.width - frame.right
    room = 6.2 * len(x_title) + 28
    for value in ticks(*frame.x_range, max(int((end - frame.left) // 62), 3)):
        x = frame.x(value)
        if x < end - room:  # where the title stands there is no room for a label
            parts.append(f'<text class="t m" x="{x:.1f}" y="{frame.floor + 17}">{tick_label(value)}</text>')
        parts.append(f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.floor}" y2="{frame.floor + 4}"/>')
    parts.append(f'<line class="a" x1="{frame.left}" x2="{end}" y1="{frame.floor}" y2="{frame.floor}"/>')
    parts.append(f'<text class="t e" x="{end}" y="{frame.floor + 17}">{escape(x_title)}</text>')
    return "".join(parts)


def path(frame: Frame, xs: Sequence[float], ys: Sequence[float]) -> str:
    """The ``d`` of a line in which each value holds until the next."""
    points = [(frame.x(x), frame.y(y)) for x, y in zip(xs, ys, strict=True)]
    start = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    return start + "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])


def filled(name: str, frame: Frame, xs: Sequence[float], ys: Sequence[float]) -> str:
    """The line in the colour ``name``, over a tinted surface down to the horizontal axis."""
    line = path(frame, xs, ys)
    closed = f"{line}V{frame.floor:.1f}H{frame.x(xs[0]):.1f}Z"
    return f'<path class="{name} f" d="{closed}"/><path class="{name} l" d="{line}"/>'


def svg(width: float, height: float, label: str, body: str) -> str:
    """A whole inline SVG that scales to its column."""
    text = escape(label)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text}">{body}</svg>'
