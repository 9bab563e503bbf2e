"""Reads a report as its reader gets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

from runner.report import build_report
from runner.run_info import RunInfo


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
