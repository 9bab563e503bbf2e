"""The report's plots as inline SVG: coloured by the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from runner.measure.latency import Milliseconds
from runner.report.axes import Frame, ceiling, filled, grid, path, svg, tick_label
from runner.report.format import number, share

Array = npt.NDArray[np.float64]

TIME_BINS = 72
HISTOGRAM_BINS = 36
TAIL = 99.5  # percentile where a histogram's axis ends; what lies beyond is counted in words
TIME_TITLE = "s"
FEWEST_SAMPLES = 10  # a histogram of fewer shows chance
LEAST_SPREAD = 1e-3  # relative: all rows took the same time, and the axis would have one label only


def throughput(timeline: Mapping[str, Sequence[float]], mean: float | None, width: float) -> Markup | None:
    """Output tokens/s over time, from the timeline's cumulative count; ``mean`` is the run's own figure."""
    times, tokens = _from_the_start(*_columns(timeline, "time_s", "output_tokens"))
    if times.size < 3 or tokens[-1] <= tokens[0]:
        return None
    edges = np.linspace(times[0], times[-1], min(TIME_BINS, times.size - 1) + 1)
    rates = np.diff(np.interp(edges, times, tokens)) / np.diff(edges)
    xs, ys = edges.tolist(), [*rates.tolist(), float(rates[-1])]
    frame = Frame(width, 210, (xs[0], xs[-1]), (0, ceiling(max(float(rates.max()), mean or 0))))
    body = grid(frame, TIME_TITLE)
    body += filled("s1", frame, xs, ys)
    if mean is not None:
        y = frame.y(mean)
        body += f'<line class="k" x1="{frame.left}" x2="{width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        body += f'<text class="t e b" x="{width - frame.right}" y="{y - 5:.1f}">run {number(mean)} tokens/s</text>'
    texts = [f"{a:.1f} to {b:.1f} s: {number(r)} tokens/s" for a, b, r in zip(xs, xs[1:], rates, strict=False)]
    return Markup(svg(width, 210, "Output tokens per second over time", body + _hints(frame, xs, texts)))


def requests(timeline: Mapping[str, Sequence[float]], width: float) -> Markup | None:
    """Running and waiting requests over time."""
    times, running, waiting = _from_the_start(*_columns(timeline, "time_s", "running", "waiting"), first=None)
    if times.size < 2:
        return None
    edges, (running, waiting) = _binned(times, running, waiting)
    xs = edges.tolist()
    frame = Frame(width, 190, (xs[0], xs[-1]), (0, ceiling(float(max(running.max(), waiting.max())))))
    body = grid(frame, TIME_TITLE)
    body += filled("s1", frame, xs, [*running.tolist(), float(running[-1])])
    body += f'<path class="s2 l" d="{path(frame, xs, [*waiting.tolist(), float(waiting[-1])])}"/>'
    pairs = zip(xs, running, waiting, strict=False)
    texts = [f"at {x:.1f} s: {number(float(r))} running, {number(float(w))} waiting" for x, r, w in pairs]
    return Markup(svg(width, 190, "Running and waiting requests over time", body + _hints(frame, xs, texts)))


def kv_use(timeline: Mapping[str, Sequence[float]], width: float) -> Markup | None:
    """Share of the KV cache in use over time, on a scale that ends at 100 %."""
    times, use = _from_the_start(*_columns(timeline, "time_s", "kv_use"), first=None)
    if times.size < 2:
        return None
    edges, (use,) = _binned(times, use)
    xs, ys = edges.tolist(), [*use.tolist(), float(use[-1])]
    frame = Frame(width, 150, (xs[0], xs[-1]), (0, 1))
    body = grid(frame, TIME_TITLE, share, 2)
    body += filled("s3", frame, xs, ys)
    texts = [f"at {x:.1f} s: {share(float(u))} of the KV cache" for x, u in zip(xs, use, strict=False)]
    return Markup(svg(width, 150, "KV cache use over time", body + _hints(frame, xs, texts)))


def histogram(title: str, samples: Milliseconds, marks: Mapping[str, float | None], width: float) -> Markup | None:
    """How one per-request time is distributed; ``marks`` are the run's percentiles, drawn where they lie.

    ``None`` where there is no distribution to see: few samples, or all the same."""
    if samples.size < FEWEST_SAMPLES:
        return None
    low, high = float(samples.min()), float(np.percentile(samples, TAIL) if samples.size > 200 else samples.max())
    if high - low <= LEAST_SPREAD * high:
        return None
    bins = int(np.clip(np.sqrt(samples.size) * 2, 6, HISTOGRAM_BINS))
    counts, edges = np.histogram(samples, bins=bins, range=(low, high))
    frame = Frame(width, 190, (low, high), (0, ceiling(float(counts.max()), 3)), top=34)
    body = grid(frame, "ms", y_count=3)
    for count, start, end in zip(counts.tolist(), edges.tolist(), edges[1:].tolist(), strict=False):
        left, right, y = frame.x(start) + 0.5, frame.x(end) - 0.5, frame.y(count)
        hint = f"{number(start)} to {number(end)} ms: {number(count)} rows"
        body += (
            f'<g><title>{escape(hint)}</title><rect class="h" x="{left:.1f}" y="{frame.top}" '
            f'width="{right - left:.1f}" height="{frame.floor - frame.top:.1f}"/><rect class="s1 bar" x="{left:.1f}" '
            f'y="{y:.1f}" width="{right - left:.1f}" height="{frame.floor - y:.1f}"/></g>'
        )
    return Markup(svg(width, 190, f"Distribution of {title}", body + _marks(frame, marks)))


def beyond_axis(samples: Milliseconds) -> int:
    """How many samples lie past the end of the histogram's axis."""
    return int((samples > np.percentile(samples, TAIL)).sum()) if samples.size > 200 else 0


def _marks(frame: Frame, marks: Mapping[str, float | None]) -> str:
    """Percentile lines with labels; a label that would touch the one before goes on the other line."""
    parts, taken = [], [-100.0, -100.0]
    for name, value in marks.items():
        if value is None or not frame.x_range[0] <= value <= frame.x_range[1]:
            continue
        x = frame.x(value)
        text = f"{name} {tick_label(float(number(value).replace(',', '')))}"
        half = 3.4 * len(text)
        centre = min(max(x, frame.left + half), frame.width - half - 2)  # left of the axis stand its own labels
        line = 0 if centre - half > taken[0] else 1
        taken[line] = centre + half + 6
        y = frame.top - 6 - 13 * line
        parts.append(f'<line class="k" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 3:.1f}" y2="{frame.floor}"/>')
        parts.append(f'<text class="t m b" x="{centre:.1f}" y="{y:.1f}">{escape(text)}</text>')
    return "".join(parts)


def _columns(timeline: Mapping[str, Any], *names: str) -> list[Array]:
    return [np.asarray(timeline.get(name) or [], dtype=np.float64) for name in names]


def _from_the_start(times: Array, *columns: Array, first: float | None = 0.0) -> list[Array]:
    """The same with a point at 0 s: the first one is noted when the first step ends, which may have taken long.

    ``first`` is the columns' value there; ``None`` takes that of their first point, which held during the step."""
    if times.size < 2 or times[0] <= 0:
        return [times, *columns]
    starts = [column[0] if first is None else first for column in columns]
    return [np.append(0.0, times), *(np.append(start, one) for start, one in zip(starts, columns, strict=True))]


def _binned(times: Array, *columns: Array) -> tuple[Array, list[Array]]:
    """Averages per time bin; an empty bin keeps the value before it, for the engine's state held meanwhile."""
    edges = np.linspace(times[0], times[-1] + 1e-9, min(TIME_BINS * 2, times.size) + 1)
    place = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, edges.size - 2)
    filled = np.bincount(place, minlength=edges.size - 1)
    last_filled = np.maximum.accumulate(np.where(filled > 0, np.arange(filled.size), 0))
    sums = [np.bincount(place, weights=column, minlength=edges.size - 1) for column in columns]
    return edges, [(total / np.maximum(filled, 1))[last_filled] for total in sums]


def _hints(frame: Frame, edges: Sequence[float], texts: Sequence[str]) -> str:
    """Invisible columns whose titles show the value under the pointer."""
    parts = []
    for start, end, text in zip(edges, edges[1:], texts, strict=False):
        x, wide = frame.x(start), frame.x(end) - frame.x(start)
        parts.append(
            f'<rect class="h" x="{x:.1f}" y="{frame.top}" width="{wide:.2f}" height="{frame.floor - frame.top:.1f}">'
            f"<title>{escape(text)}</title></rect>"
        )
    return "".join(parts)
