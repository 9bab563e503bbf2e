"""What a report is built from: folders that are unfinished or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import TemplateNotFound

from runner.errors import RunFailedError
from runner.finish import _build_report
from runner.report import ReportError, build_report
from runner.run_info import RunInfo


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


def test_rebuilding_gives_the_same_bytes_from_everywhere(run: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [path.read_bytes() for path in build_report(run.run_dir)]
    monkeypatch.chdir(run.run_dir.parent)
    assert [path.read_bytes() for path in build_report(Path(run.run_dir.name))] == first


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
