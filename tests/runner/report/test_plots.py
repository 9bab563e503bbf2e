"""Plots show what their figures say."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from runner.report import build_report, roofline
from runner.report.charts import histogram, kv_use, requests, throughput
from runner.report.format import number
from runner.report.run_files import read_run
from runner.report.tradeoff import Point, tradeoff
from runner.run_info import RunInfo


def test_plots_are_well_formed_and_in_two_widths(run: RunInfo) -> None:
    build_report(run.run_dir)
    text = (run.run_dir / "report.html").read_text(encoding="utf-8")
    plots = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    labels = [ElementTree.fromstring(plot).attrib["aria-label"] for plot in plots]
    assert len(labels) == 16
    assert len(set(labels)) == 8
    assert not re.search(r"nan|inf\b", "".join(plots))


def test_a_dot_lies_where_its_figures_say() -> None:
    """Twice the rate at the same intensity is one octave up, and a group at the roof touches it."""
    groups = [{"steps": 1, "flops": 8e12, "bytes": 1e12, "seconds": s, "floor_s": 1.0} for s in (1.0, 2.0)]
    detail = {"ceilings": {"read_bytes_per_s": 1e12, "matmul_flops_per_s": 64e12}, "groups": groups, "measured_s": 4.0}
    plot = roofline.chart(detail, 1000)
    assert plot is not None
    ys = [float(y) for y in re.findall(r'class="s1 dot" cx="[\d.]+" cy="([\d.]+)"', plot)]
    xs = [float(x) for x in re.findall(r'class="s1 dot" cx="([\d.]+)"', plot)]
    x0, y0, x1, y1 = map(float, re.findall(r"[\d.]+", re.findall(r'roof" d="([^H]+)', plot)[0]))
    assert xs[0] == xs[1]
    on_roof = y1 + (y0 - y1) * (x1 - xs[0]) / (x1 - x0)
    assert min(ys) == pytest.approx(on_roof, abs=0.3)
    octave = (x1 - xs[0]) / math.log2(64 / 8) * (y0 - y1) / (x1 - x0)  # pixels per factor of two, upwards
    assert max(ys) - min(ys) == pytest.approx(octave, abs=0.3)
    assert "50 % of the roof" in plot


def test_histogram_counts_every_sample(run: RunInfo) -> None:
    files = read_run(run.run_dir)
    plot = histogram("TTFT", files.times("ttft_ms"), {"p50": files.flat["ttft_ms/p50"]}, 400)
    assert plot is not None
    counts = [int(text) for text in re.findall(r"ms: (\d+) rows", plot)]
    assert sum(counts) == files.flat["rows/ok"]
    assert f"p50 {number(files.flat['ttft_ms/p50'])}" in plot


def test_names_of_points_that_lie_together_are_written_side_by_side() -> None:
    points = [Point(1, "a", 10.0, 100.0), Point(2, "b", 10.01, 100.2), Point(3, "c", 10.0, 500.0)]
    texts = re.findall(r'class="t m b"[^>]*>([^<]+)<', str(tradeoff(points, "ms", "tokens/s", 500)))
    assert texts == ["1, 2", "3"]


def test_histogram_of_nothing_is_not_drawn() -> None:
    for samples in (np.array([]), np.arange(9.0), np.zeros(50), np.full(50, 10.0) + np.linspace(0, 1e-4, 50)):
        assert histogram("TTFT", samples, {"p50": 1.0}, 400) is None


def test_throughput_plot_integrates_to_the_output_tokens() -> None:
    timeline = {"time_s": [0.0, 1.0, 2.0, 3.0, 4.0], "output_tokens": [0.0, 100.0, 300.0, 300.0, 400.0]}
    plot = throughput(timeline, 100.0, 800)
    assert plot is not None
    bins = re.findall(r"([\d.]+) to ([\d.]+) s: ([\d.,]+) tokens/s", plot)
    assert [float(rate) for _, _, rate in bins] == [100.0, 200.0, 0.0, 100.0]


def test_empty_timelines_draw_nothing() -> None:
    for draw in (lambda t: throughput(t, None, 400), lambda t: requests(t, 400), lambda t: kv_use(t, 400)):
        assert draw({}) is None
        assert draw({"time_s": [1.0], "output_tokens": [1], "running": [1], "waiting": [0], "kv_use": [0.1]}) is None


def test_an_engine_without_a_cache_has_no_curve_of_it(run: RunInfo) -> None:
    """An empty plot says that the cache was empty."""
    with_cache = build_report(run.run_dir)[1].read_text(encoding="utf-8")
    metrics = json.loads((run.run_dir / "metrics.json").read_text())
    metrics["metrics"]["kv_use/peak"] = None
    (run.run_dir / "metrics.json").write_text(json.dumps(metrics))
    without = build_report(run.run_dir)[1].read_text(encoding="utf-8")
    assert ("KV cache in use" in with_cache, "KV cache in use" in without) == (True, False)
