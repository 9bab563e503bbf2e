"""Throughput against latency of a sweep's variants, with the Pareto front: those that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from runner.report.axes import Frame, ceiling, grid, svg
from runner.report.format import number

HEIGHT = 320
LINE, DIGIT = 15, 8  # a label's height, and the width of a digit


@dataclass(frozen=True)
class Point:
    """A variant's place: less ``cost`` is better, more ``gain`` is better."""

    number: int
    label: str
    cost: float
    gain: float


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in one figure without being worse in the other, by rising cost."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.gain)):
        if not front or point.gain > front[-1].gain:
            front.append(point)
    return front


def tradeoff(points: Sequence[Point], cost: str, gain: str, width: float) -> Markup | None:
    """The curve; ``None`` under two points, or where nothing costs anything. ``cost`` and ``gain`` are titles with
    their units."""
    if len(points) < 2 or not any(point.cost for point in points):
        return None
    high = ceiling(max(point.cost for point in points) * 1.08)
    top = ceiling(max(point.gain for point in points) * 1.08)
    frame = Frame(width, HEIGHT, (0, high), (0, top), left=56, top=18)
    front = pareto_front(points)
    path = "L".join(f"{frame.x(point.cost):.1f},{frame.y(point.gain):.1f}" for point in front)
    body = grid(frame, cost) + f'<path class="s2 l" d="M{path}"/>'
    for point in points:
        x, y = frame.x(point.cost), frame.y(point.gain)
        name = "s2 dot" if point in front else "s1 dot"
        hint = f"{point.number}: {point.label}; {cost} {number(point.cost)}, {gain} {number(point.gain)}"
        body += f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="5.5"><title>{escape(hint)}</title></circle>'
    places = [(frame.x(point.cost), frame.y(point.gain) - 10, str(point.number)) for point in points]
    body += "".join(f'<text class="t m b" x="{x:.1f}" y="{y:.1f}">{text}</text>' for x, y, text in _apart(places))
    return Markup(svg(width, HEIGHT, f"{gain} over {cost}", body))


def _apart(labels: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Labels (x of the middle, y, text) that would lie on one another become one: '1, 2'."""
    apart: list[tuple[float, float, str]] = []
    for x, y, text in labels:
        here = (x, y, text)
        while near := next((other for other in apart if _touch(here, other)), None):
            apart.remove(near)
            here = (near[0], near[1], f"{near[2]}, {here[2]}")
        apart.append(here)
    return apart


def _touch(a: tuple[float, float, str], b: tuple[float, float, str]) -> bool:
    return abs(a[1] - b[1]) < LINE and abs(a[0] - b[0]) < DIGIT * ((len(a[2]) + len(b[2])) / 2 + 1)
