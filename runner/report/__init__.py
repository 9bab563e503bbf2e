"""Reports: Markdown for the terminal and the repository, one HTML file for people."""

from __future__ import annotations

from runner.report.build import build_report
from runner.report.run_files import ReportError

__all__ = ["ReportError", "build_report"]
