"""Reports in a real browser: they ask nothing of a network, fit screen and paper, and show what they should."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.report import build_report
from tests.runner.browser import Page, find_browser, open_page
from tests.runner.launch import NULL, articles, succeed
from tests.runner.run_folder import write_run_folder

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here (apt-get install chromium, or GALLEY_CHROMIUM=PROGRAM)"
)
DESKTOP, PHONE, PAPER = 1280, 390, 680  # css pixels; A4 between its margins

# What reaches out of the page sideways, but for what scrolls by itself.
OVERFLOW = """
[...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll, pre.config, title, style'))
  .filter(e => e.getClientRects().length && !['title', 'style'].includes(e.tagName.toLowerCase()))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
            || e.getBoundingClientRect().left < -1)
  .map(e => e.tagName + ' ' + e.getAttribute('class') + ' ' + e.textContent.slice(0, 60))
"""
# Tables that would have to be scrolled: on paper what lies beyond is lost.
CUT = """
[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.slice(0, 60))
"""
# Texts of drawings that lie on one another.
COLLISIONS = """
[...document.querySelectorAll('svg')].filter(s => s.getClientRects().length).flatMap(s => {
  const boxes = [...s.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3
  ).map(([b, q]) => a + ' on ' + b));
})
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_page(str(PROGRAM), tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run_folder(tmp_path_factory.mktemp("runs"), rows=160, bad=1, sessions=2)
    return build_report(run.run_dir)[1]


def fits(page: Page, path: Path) -> None:
    """On a desktop, a phone and paper, in light and dark."""
    for width in (DESKTOP, PHONE):
        for scheme in ("light", "dark"):
            page.call(
                "Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}]
            )
            page.open(path, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OVERFLOW) == []
            assert page.evaluate(COLLISIONS) == []
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    page.open(path, PAPER)
    assert page.evaluate(CUT) == []
    assert page.evaluate(OVERFLOW) == []
    assert page.evaluate(COLLISIONS) == []
    page.call("Emulation.setEmulatedMedia", media="", features=[])
    assert page.problems() == []


def visible_text(page: Page) -> str:
    text: str = page.evaluate("document.body.innerText")
    return text


def test_the_checks_find_what_they_look_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "bad.html").write_text(
        "<!doctype html><p style='width: 2000px'>wide</p><img src='http://127.0.0.1:9/x.png'>"
        "<svg width=100 height=20><text x=0 y=15>one</text><text x=5 y=15>two</text></svg>"
        "<script>console.error('broken')</script>"
    )
    with open_page(str(PROGRAM), folder / "profile") as page:
        page.open(folder / "bad.html", PHONE)
        assert [text.split()[0] for text in page.evaluate(OVERFLOW)] == ["P"]
        assert page.evaluate(COLLISIONS) == ["one on two"]
        problems = " ".join(page.problems())
    assert "http://127.0.0.1:9/x.png" in problems
    assert "broken" in problems


def test_a_runs_report_fits_and_asks_nothing_of_a_network(page: Page, report: Path) -> None:
    fits(page, report)


def test_it_says_what_it_must(page: Page, report: Path) -> None:
    page.open(report, DESKTOP)
    text = visible_text(page)
    for words in (
        "demo", "VALID", "runner +recipe=demo", "Latency", "Distance to the roofline", "Over time and across rows",
        "Output tokens/s", "Running and waiting requests", "KV cache in use", "TTFT per row", "First outputs",
        "Environment", "Digests", "outputs.jsonl", f"runner replay {report.parent}", "Sessions",
    ):  # fmt: skip
        assert words in text, words
    assert page.evaluate("document.title") == "demo · VALID · Galley"
    drawings = "[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().height > 50).length"
    assert page.evaluate(drawings) == 8  # roofline, three over time, four distributions


def test_dark_is_dark_and_light_is_light(page: Page, report: Path) -> None:
    brightness = []
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.open(report, DESKTOP)
        colours = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        paper, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in colours)
        assert abs(paper - ink) > 150  # it can be read
        brightness.append(paper)
    assert brightness[0] > 230
    assert brightness[1] < 40
    page.call("Emulation.setEmulatedMedia", features=[])


def test_it_prints_with_its_configuration_and_without_folded_texts(page: Page, report: Path, tmp_path: Path) -> None:
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    page.open(report, PAPER)
    shown = "e => e.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true})"
    assert page.evaluate(f"({shown})(document.querySelector('pre.config'))") is True
    assert page.evaluate(f"[...document.querySelectorAll('.row details')].some({shown})") is False
    page.call("Emulation.setEmulatedMedia", media="", features=[])
    page.pdf(tmp_path / "report.pdf")
    data = (tmp_path / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 4 <= pages <= 12
    page.screenshot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 100_000  # a page full of drawings, no blank one


def test_a_sweeps_report_fits_as_well(page: Page, tmp_path: Path) -> None:
    articles(tmp_path, 12)
    words = ("dataset.path=articles.jsonl", "engine.seconds_per_step=0.001,0.002", "sampling.max_tokens=4,8")
    succeed(tmp_path, "-m", "+recipe=demo", *NULL, *words)
    (path,) = tmp_path.glob("outputs/*/sweep-*/report.html")
    fits(page, path)
    page.open(path, DESKTOP)
    text = visible_text(page)
    for words_shown in ("COMPLETE", "Trade-off", "Variants", "Jobs", "max_tokens", "seconds_per_step", "E2E p50"):
        assert words_shown in text, words_shown


def test_a_sweep_of_many_settings_fits_as_well(page: Page, tmp_path: Path) -> None:
    """Of more settings than have columns side by side, each variant's stand in one."""
    articles(tmp_path, 12)
    cases = (
        "[{prompt.system: 'A text that is far too long for a narrow column', sampling.stop: ['.', 'and so on'],"
        " sampling.seed: 5}, {sampling.max_tokens: 4, sampling.min_tokens: 2, engine.seconds_per_step: 0.002}]"
    )
    succeed(tmp_path, "+recipe=demo", *NULL, "dataset.path=articles.jsonl", f"sweep.cases={cases}")
    (path,) = tmp_path.glob("outputs/*/sweep-*/report.html")
    fits(page, path)
    page.open(path, DESKTOP)
    assert "max_tokens=4, min_tokens=2, seconds_per_step=0.002" in visible_text(page)
