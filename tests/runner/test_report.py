"""A report's figures are those of metrics.json, it stands alone, and its verdict says what is wrong."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jinja2 import TemplateNotFound

from runner.errors import RunFailedError
from runner.finish import _build_report
from runner.measure import definitions
from runner.report import ReportError, build_report, roofline
from runner.report.charts import histogram, kv_use, requests, throughput
from runner.report.format import NONE, figure, number, shortened
from runner.report.run_files import read_run
from runner.report.tradeoff import Point, tradeoff
from runner.report.verdict import judge
from runner.run_info import RunInfo
from tests.runner.run_folder import BAD_ROW, write_run_folder

SHOWN = [metric for metric in definitions.METRICS if metric.group != "load"]  # of a run without a load


class Page(HTMLParser):
    """The figures, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.figures: list[tuple[str, str, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs) if tag == "data" else None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open is not None:
            self.figures.append((self._open["data-metric"] or "", self._open["value"] or "", data.strip()))
            self._open = None


@pytest.fixture
def run(tmp_path: Path) -> RunInfo:
    return write_run_folder(tmp_path, rows=160)


def html(run: RunInfo) -> Page:
    _, page = build_report(run.run_dir)
    assert page.name == "report.html"
    return Page(page.read_text(encoding="utf-8"))


def change(run: RunInfo, name: str, edit: Callable[[dict[str, Any]], object]) -> None:
    path = run.run_dir / name
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def metrics(run: RunInfo) -> dict[str, Any]:
    flat: dict[str, Any] = json.loads((run.run_dir / "metrics.json").read_text())["metrics"]
    return flat


def test_every_figure_is_that_of_metrics_json(run: RunInfo) -> None:
    flat = metrics(run)
    figures = html(run).figures
    for name, value, text in figures:
        assert json.loads(value) == flat[name], name
        assert text == figure(flat[name], definitions.find(name).unit), name
    assert {name for name, _, _ in figures} == set(flat)


def test_markdown_has_the_same_figures(run: RunInfo) -> None:
    flat = metrics(run)
    text = build_report(run.run_dir)[0].read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    by_title = {row[0]: row[1:] for row in rows}
    for metric in SHOWN:
        shown = by_title[metric.title]
        if metric.distribution:
            names = [f"{metric.name}/{statistic}" for statistic in definitions.STATISTICS]
            assert shown[:5] == [figure(flat[name], metric.unit) for name in names]
        else:
            assert shown[0] == figure(flat[metric.name], metric.unit)


def test_figures_follow_the_file(run: RunInfo) -> None:
    change(run, "metrics.json", lambda m: m["metrics"].update({"ttft_ms/p50": 98765.4, "output_tokens_per_s": 54321.0}))
    page = html(run)
    assert ("ttft_ms/p50", "98765.4", "98,765") in page.figures
    assert ("output_tokens_per_s", "54321.0", "54,321") in page.figures
    assert "run 54,321 tokens/s" in page.text  # the plot's line is the run's figure, not one of its own


def test_page_is_one_file_without_references_to_others(run: RunInfo) -> None:
    page = html(run)
    text = (run.run_dir / "report.html").read_text(encoding="utf-8")
    assert not {tag for tag, _ in page.tags} & {
        "link",
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "image",
        "use",
    }
    assert not [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert not re.search(r"url\(|@import|https?:", text)
    assert "prefers-color-scheme: dark" in text


def test_page_holds_what_a_reader_needs(run: RunInfo) -> None:
    page = html(run)
    manifest = json.loads((run.run_dir / "manifest.json").read_text())
    wanted = ["VALID", "runner +recipe=demo", BAD_ROW, manifest["config_hash"], manifest["dataset"]["digest"]]
    wanted += [
        manifest["environment"]["packages"]["torch"],
        manifest["outputs"]["outputs.jsonl"],
        "max_model_len: 2048",
    ]
    wanted += [re.sub("`", "", metric.definition) for metric in SHOWN]
    first = json.loads((run.run_dir / "outputs.jsonl").read_text().splitlines()[0])
    for text in [*wanted, first["id"], first["output"]]:
        assert text in page.text


def test_rows_cannot_inject_markup(run: RunInfo) -> None:
    bad = {"id": "<img src=x>", "output": "<script>alert(1)</script>", "finish_reason": "stop", "title": "</main>"}
    (run.run_dir / "outputs.jsonl").write_text(json.dumps(bad) + "\n")
    page = html(run)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert "<script>alert(1)</script>" in page.text


def test_plots_are_well_formed_and_in_two_widths(run: RunInfo) -> None:
    build_report(run.run_dir)
    text = (run.run_dir / "report.html").read_text(encoding="utf-8")
    plots = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    labels = [ElementTree.fromstring(plot).attrib["aria-label"] for plot in plots]
    assert len(labels) == 16
    assert len(set(labels)) == 8
    assert not re.search(r"nan|inf\b", "".join(plots))


def test_the_roofline_section_adds_up(run: RunInfo) -> None:
    page, content = html(run), json.loads((run.run_dir / "metrics.json").read_text())
    detail = content["roofline"]
    memory, compute, every, measured = roofline.table(detail)
    assert memory.steps is not None
    assert compute.steps is not None
    assert memory.steps + compute.steps == every.steps == content["engine"]["steps"]
    assert memory.floor + compute.floor == pytest.approx(every.floor) == pytest.approx(metrics(run)["floor_s"])
    assert measured.share == pytest.approx(metrics(run)["floor_share"])
    assert all(line.share is not None and 0 < line.share < 1 for line in (memory, compute, every, measured))
    for line in (memory, compute, every, measured):
        assert line.title in page.text
    assert f"read {number(60.0)} GB/s" in page.text
    assert "matrix product 2.00 TFLOP/s" in page.text
    dots = [attrs["class"] for tag, attrs in page.tags if tag == "circle"]
    assert len(dots) == 2 * (len(detail["groups"]) + 1)
    text = (run.run_dir / "report.md").read_text(encoding="utf-8")
    assert f"| All steps | {every.steps} | {number(every.floor)} |" in text


def test_without_ceilings_there_is_no_roofline_section(run: RunInfo) -> None:
    change(run, "metrics.json", lambda m: m.update({"roofline": None}))
    assert "Steps bound by memory" not in html(run).text
    change(run, "metrics.json", lambda m: m.pop("roofline"))  # of a run before there was one
    assert "Steps bound by memory" not in html(run).text


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


def reasons(run: RunInfo) -> str:
    return "\n".join(judge(read_run(run.run_dir)).reasons)


def test_clean_run_is_valid_with_notes(run: RunInfo) -> None:
    verdict = judge(read_run(run.run_dir))
    assert verdict.valid
    assert any("1 row ended in error, within the allowed 5 %" in note for note in verdict.notes)


def test_too_many_errors_are_a_reason(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path, rows=40, bad=4)
    assert "4 rows of 40 (10 %), allowed are 5 %" in reasons(run)
    assert "INVALID" in html(run).text


def test_truncations_are_a_reason_unless_wanted(run: RunInfo) -> None:
    change(run, "metrics.json", lambda m: m["metrics"].update({"rows/truncated": 100}))
    assert "Truncations: 100 rows of 159" in reasons(run)
    config = run.run_dir / "config.yaml"
    config.write_text(config.read_text().replace("temperature: 0.0", "temperature: 0.0\n  ignore_eos: true"))
    assert reasons(run) == ""


def test_few_samples_are_a_reason(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path, rows=9, bad=0)
    assert "Too few samples: 9 rows" in reasons(run)
    page = html(run)
    assert ("ttft_ms/p99", "null", NONE) in page.figures
    assert "p99 (needs at least 100 samples, there are 9)" in page.text


def test_a_gpu_that_was_slowed_down_or_shared_is_a_reason(run: RunInfo) -> None:
    change(run, "metrics.json", lambda m: m.update(gpu={"looks": 200, "slowed": 0.1, "capped": 0.5, "others": 2}))
    assert "Clocks throttled: the GPU was slowed down by heat or by its board in 10 % of 200 looks" in reasons(run)
    assert "Other processes: 2 other processes used the GPU" in reasons(run)
    change(run, "metrics.json", lambda m: m.update(gpu={"looks": 200, "slowed": 0.01, "capped": 0.5, "others": 0}))
    verdict = judge(read_run(run.run_dir))
    assert verdict.valid
    assert any(note.startswith("The power limit held the GPU's clocks down in 50 %") for note in verdict.notes)


def test_lost_and_doubled_rows_are_reasons(run: RunInfo) -> None:
    outputs = run.run_dir / "outputs.jsonl"
    lines = outputs.read_text().splitlines(keepends=True)
    outputs.write_text("".join(lines[:-3]))
    found = reasons(run)
    assert "outputs file has 156 rows, but 159 rows finished without error" in found
    assert "Changed file: outputs.jsonl" in found
    (run.run_dir / "errors.jsonl").unlink()
    assert "Missing file: errors.jsonl" in reasons(run)


def test_dataset_of_another_size_is_a_reason(run: RunInfo) -> None:
    change(run, "manifest.json", lambda m: m["dataset"].update(rows=200))
    assert "the dataset has 200 rows, but 160 rows were measured" in reasons(run)


def test_resumed_run_says_so(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path, rows=90, bad=0, sessions=3)
    page = html(run)
    assert "Resumed: 3 sessions" in page.text
    assert "2025-01-31 12:20:00 UTC" in page.text
    assert "Distance to the roofline: without sessions 1, 2, killed before" in page.text


def test_session_killed_after_its_last_row_is_a_note(run: RunInfo) -> None:
    change(run, "metrics.json", lambda m: m["sessions"][-1].update(status="KILLED"))
    verdict = judge(read_run(run.run_dir))
    assert verdict.valid
    assert any("ended as KILLED" in note for note in verdict.notes)


def test_embeddings_show_their_first_values(run: RunInfo) -> None:
    (run.run_dir / "outputs.jsonl").unlink()
    table = {"id": ["a", "b"], "embedding": [[0.25] * 384, [0.5] * 384]}
    pq.write_table(pa.table(table), run.run_dir / "outputs.parquet")
    text = html(run).text
    assert "[0.2500, 0.2500," in text
    assert "(384 values)" in text


def test_pooling_run_has_its_own_headlines(run: RunInfo) -> None:
    change(run, "metrics.json", lambda m: m["metrics"].update({"tokens/output": 0}))
    (run.run_dir / "requests.parquet").unlink()
    page = html(run)
    assert page.figures[0][0] == "total_tokens_per_s"
    assert [name for name, _, _ in page.figures[:6]].count("e2e_ms/p50") == 1


def test_unfinished_folder_is_a_clear_error(run: RunInfo, tmp_path: Path) -> None:
    (run.run_dir / "metrics.json").unlink()
    with pytest.raises(ReportError, match=r"not a finished run: metrics\.json missing$"):
        build_report(run.run_dir)
    (run.run_dir / "journal.sqlite").touch()  # begun, and killed or failed
    with pytest.raises(ReportError, match=r"metrics\.json missing \(run\.log says how it ended"):
        build_report(run.run_dir)
    with pytest.raises(ReportError, match="nowhere is not a folder"):
        build_report(tmp_path / "nowhere")


def test_damaged_file_is_named(run: RunInfo) -> None:
    (run.run_dir / "manifest.json").write_text("{")
    with pytest.raises(ReportError, match=r"manifest\.json is not valid JSON"):
        build_report(run.run_dir)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "[", r"config\.yaml is not valid YAML"),
        ("config.yaml", "- 1", r"config\.yaml does not hold a mapping but list"),
        ("metrics.json", "{}", r"metrics\.json is damaged: it has no mapping under metrics"),
    ],
)
def test_what_is_damaged_is_named(run: RunInfo, name: str, content: str, message: str) -> None:
    (run.run_dir / name).write_text(content)
    with pytest.raises(ReportError, match=message):
        build_report(run.run_dir)


def test_an_engine_without_a_cache_has_no_curve_of_it(run: RunInfo) -> None:
    """An empty plot says that the cache was empty."""
    with_cache = build_report(run.run_dir)[1].read_text(encoding="utf-8")
    metrics = json.loads((run.run_dir / "metrics.json").read_text())
    metrics["metrics"]["kv_use/peak"] = None
    (run.run_dir / "metrics.json").write_text(json.dumps(metrics))
    without = build_report(run.run_dir)[1].read_text(encoding="utf-8")
    assert ("KV cache in use" in with_cache, "KV cache in use" in without) == (True, False)


def test_rebuilding_gives_the_same_bytes_from_everywhere(run: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [path.read_bytes() for path in build_report(run.run_dir)]
    monkeypatch.chdir(run.run_dir.parent)
    assert [path.read_bytes() for path in build_report(Path(run.run_dir.name))] == first


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, NONE), (0, "0"), (0.0, "0"), (1234567, "1,234,567"), (1234.5, "1,234"), (99.96, "100"), (3.14159, "3.14"),
     (0.00123, "0.00123"), (12, "12")],
)  # fmt: skip
def test_numbers_keep_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_long_texts_say_what_was_left_out() -> None:
    assert shortened("x" * 1500, 1000).endswith("(+500 characters)")
    assert shortened("short", 1000) == "short"


def test_docs_carry_the_definitions() -> None:
    chapter = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert definitions.table_markdown() in chapter.read_text(encoding="utf-8")


def test_importing_the_report_loads_no_heavy_package() -> None:
    code = (
        "import sys, runner.report, runner.measure, runner.tracking, runner.manifest; "
        "print([n for n in ('torch', 'mlflow', 'matplotlib', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_template_is_not_taken_for_a_full_disk(run: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_templates(run_dir: Path) -> list[Path]:
        raise TemplateNotFound("report.css")

    monkeypatch.setattr("runner.report.build_report", without_templates)
    with pytest.raises(
        RunFailedError, match=r"the outputs are complete, and the report could not be built.*report\.css"
    ):
        _build_report(run.run_dir)


def test_damaged_requests_are_named(run: RunInfo) -> None:
    (run.run_dir / "requests.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(ReportError, match=r"requests\.parquet is not a Parquet file"):
        build_report(run.run_dir)
