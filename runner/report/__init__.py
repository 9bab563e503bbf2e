"""Reports: Markdown for the terminal and the repository, one HTML file for people."""

from __future__ import annotations

from runner.report.build import build_report
from runner.report.run_files import ReportError
from runner.report.sweep import build_sweep_report

__all__ = ["ReportError", "build_report", "build_sweep_report"]
