"""Throughput against latency of a sweep's variants, with the Pareto front: those that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from runner.report.axes import Frame, ceiling, grid, svg
from runner.report.format import number

HEIGHT = 320


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
    """The curve; ``None`` under two points. ``cost`` and ``gain`` are titles with their units."""
    if len(points) < 2:
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
        body += f'<text class="t m b" x="{x:.1f}" y="{y - 10:.1f}">{point.number}</text>'
    return Markup(svg(width, HEIGHT, f"{gain} over {cost}", body))
