"""A bounded record of the engine's state over time."""

from __future__ import annotations

from engine.stats import TimelinePoint

CAPACITY = 1024


class Timeline:
    """Keeps at most ``CAPACITY`` points, evenly spread over a run of any length.

    When it is full, every other point goes and the distance between points doubles.
    """

    def __init__(self) -> None:
        self._points: list[TimelinePoint] = []
        self._every = 1
        self._seen = 0

    def add(self, point: TimelinePoint) -> None:
        """Record a point, or pass it over where points are as close as they may be."""
        if self._seen % self._every == 0:
            self._points.append(point)
            if len(self._points) == CAPACITY:
                self._points = self._points[::2]
                self._every *= 2
        self._seen += 1

    def points(self) -> tuple[TimelinePoint, ...]:
        """The points in order."""
        return tuple(self._points)
