"""The roofline section: operations per second over arithmetic intensity, and floor against measured seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from runner.report.axes import Frame, svg
from runner.report.format import number, share

HEIGHT = 300
MOST_RADIUS, LEAST_RADIUS = 15.0, 3.0
LEGEND = (("s1", "steps bound by memory"), ("s3", "steps bound by compute"), ("s2", "whole run"))
UNITS = ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))


@dataclass(frozen=True)
class Line:
    """A line of the table; seconds, and what share of ``took`` the floor is."""

    title: str
    steps: int | None
    floor: float
    took: float

    @property
    def share(self) -> float | None:
        """Floor divided by the seconds that it took."""
        return self.floor / self.took if self.took else None


def table(detail: Mapping[str, Any] | None) -> list[Line]:
    """Floor and measured seconds of the session that the detail is of: by what bounds the steps, then together."""
    if detail is None:
        return []
    groups, ridge = detail["groups"], _ridge(detail)
    memory = [group for group in groups if _intensity(group) < ridge]
    compute = [group for group in groups if _intensity(group) >= ridge]
    named = (("Steps bound by memory", memory), ("Steps bound by compute", compute), ("All steps", groups))
    lines = [Line(title, _sum(part, "steps"), _sum(part, "floor_s"), _sum(part, "seconds")) for title, part in named]
    return [*lines, Line("Whole measured phase", None, lines[-1].floor, detail["measured_s"])]


def unit_of(detail: Mapping[str, Any]) -> tuple[float, str]:
    """The unit in which the ceiling has one to three digits before the point."""
    rate = detail["ceilings"]["matmul_flops_per_s"]
    return next((unit for unit in UNITS if rate >= unit[0]), UNITS[-1])


def chart(detail: Mapping[str, Any] | None, width: float) -> Markup | None:
    """The roof from both ceilings, a dot for each group of steps (its area: its share of the seconds), and the run."""
    groups = [] if detail is None else [g for g in detail["groups"] if g["seconds"] > 0 and g["flops"] and g["bytes"]]
    if detail is None or not groups:
        return None
    unit, unit_name = unit_of(detail)
    total = {key: _sum(groups, key) for key in ("steps", "flops", "bytes", "seconds", "floor_s")}
    frame = _frame(detail, groups, width, unit)
    body = _grid(frame) + _roof(frame, detail, unit, unit_name)
    for group in sorted(groups, key=lambda group: -group["seconds"]):
        name = "s1" if _intensity(group) < _ridge(detail) else "s3"
        radius = max(LEAST_RADIUS, MOST_RADIUS * math.sqrt(group["seconds"] / total["seconds"]))
        body += _dot(frame, group, unit, unit_name, f"{name} dot", radius)
    body += _dot(frame, total, unit, unit_name, "s2 run", 5.5) + _label(frame, total, unit, unit_name)
    return Markup(svg(width, HEIGHT, "Roofline: operations per second over arithmetic intensity", body))


def _sum(groups: Sequence[Mapping[str, Any]], key: str) -> Any:
    return sum(group[key] for group in groups)


def _intensity(group: Mapping[str, Any]) -> float:
    return float(group["flops"] / group["bytes"]) if group["bytes"] else math.inf


def _ridge(detail: Mapping[str, Any]) -> float:
    """The intensity from which on operations and no longer bytes set the floor."""
    return float(detail["ceilings"]["matmul_flops_per_s"] / detail["ceilings"]["read_bytes_per_s"])


def _frame(detail: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], width: float, unit: float) -> Frame:
    """Ranges are powers of ten: the scales are logarithmic."""
    ridge, top = _ridge(detail), detail["ceilings"]["matmul_flops_per_s"] / unit
    xs = [_intensity(group) for group in groups]
    ys = [group["flops"] / group["seconds"] / unit for group in groups]
    low, high = math.log10(min(*xs, ridge) / 2), math.log10(max(*xs, ridge) * 2.5)
    return Frame(width, HEIGHT, (low, high), (math.log10(min(*ys, top) / 2), math.log10(max(*ys, top) * 1.7)), left=52)


def _decades(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 of each power of ten where there are few of them, else the powers alone."""
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    for power in range(math.floor(low), math.ceil(high) + 1):
        yield from (step * 10.0**power for step in steps if low <= math.log10(step) + power <= high)


def _grid(frame: Frame) -> str:
    parts, end, title = [], frame.width - frame.right, "FLOP/byte"
    for value in _decades(*frame.y_range):
        y = frame.y(math.log10(value))
        parts.append(f'<line class="g" x1="{frame.left}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="t e" x="{frame.left - 7}" y="{y + 3.6:.1f}">{value:,g}</text>')
    for value in _decades(*frame.x_range):
        x = frame.x(math.log10(value))
        parts.append(f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.floor}" y2="{frame.floor + 4}"/>')
        if x < end - 6.2 * len(title) - 28:
            parts.append(f'<text class="t m" x="{x:.1f}" y="{frame.floor + 17}">{value:,g}</text>')
    parts.append(f'<line class="a" x1="{frame.left}" x2="{end}" y1="{frame.floor}" y2="{frame.floor}"/>')
    parts.append(f'<text class="t e" x="{end}" y="{frame.floor + 17}">{title}</text>')
    return "".join(parts)


def _roof(frame: Frame, detail: Mapping[str, Any], unit: float, unit_name: str) -> str:
    """The bandwidth's slope up to the ridge, the product rate's level from there on, each with its figure."""
    ceilings, ridge = detail["ceilings"], math.log10(_ridge(detail))
    top = math.log10(ceilings["matmul_flops_per_s"] / unit)
    first = max(frame.x_range[0], ridge - (top - frame.y_range[0]))  # where the slope enters the plot
    start, corner = (frame.x(first), frame.y(top - (ridge - first))), (frame.x(ridge), frame.y(top))
    end = frame.width - frame.right
    path = f"M{start[0]:.1f},{start[1]:.1f}L{corner[0]:.1f},{corner[1]:.1f}H{end:.1f}"
    angle = math.degrees(math.atan2(corner[1] - start[1], corner[0] - start[0]))
    middle = (start[0] + corner[0]) / 2, (start[1] + corner[1]) / 2 - 7
    read = f"read {number(ceilings['read_bytes_per_s'] / 1e9)} GB/s"
    rate = f"matrix product {number(ceilings['matmul_flops_per_s'] / unit)} {unit_name}"
    turned = f'transform="rotate({angle:.1f} {middle[0]:.1f} {middle[1]:.1f})"'
    return (
        f'<path class="roof" d="{path}"/>'
        f'<text class="t m" x="{middle[0]:.1f}" y="{middle[1]:.1f}" {turned}>{escape(read)}</text>'
        f'<text class="t e" x="{end}" y="{corner[1] - 7:.1f}">{escape(rate)}</text>'
    )


def _place(frame: Frame, group: Mapping[str, Any], unit: float) -> tuple[float, float]:
    return frame.x(math.log10(_intensity(group))), frame.y(math.log10(group["flops"] / group["seconds"] / unit))


def _dot(frame: Frame, group: Mapping[str, Any], unit: float, unit_name: str, name: str, radius: float) -> str:
    x, y = _place(frame, group, unit)
    rate = f"{number(group['flops'] / group['seconds'] / unit)} {unit_name}"
    hint = (
        f"{number(group['steps'])} steps in {number(float(group['seconds']))} s: "
        f"{number(_intensity(group))} FLOP/byte, {rate}, {share(group['floor_s'] / group['seconds'])} of the roof"
    )
    return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{escape(hint)}</title></circle>'


def _label(frame: Frame, total: Mapping[str, Any], unit: float, unit_name: str) -> str:
    """The run's figure beside its dot, on the side with more room."""
    x, y = _place(frame, total, unit)
    right = x < frame.width * 0.6
    text = f"run {number(total['flops'] / total['seconds'] / unit)} {unit_name}"
    anchor = "t b" if right else "t e b"
    return f'<text class="{anchor}" x="{x + (11 if right else -11):.1f}" y="{y + 16:.1f}">{escape(text)}</text>'
