"""A report's figures are those of metrics.json, and its page stands alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.measure import definitions
from runner.report import build_report, roofline
from runner.report.format import NONE, figure, number, shortened
from runner.run_info import RunInfo
from tests.runner.report.page import change, html, metrics
from tests.runner.run_folder import BAD_ROW

SHOWN = [metric for metric in definitions.METRICS if metric.group != "load"]  # of a run without a load


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
    chapter = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert definitions.table_markdown() in chapter.read_text(encoding="utf-8")
