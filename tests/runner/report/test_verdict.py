"""The verdict says what is wrong with a run."""

from __future__ import annotations

from pathlib import Path

from runner.report.format import NONE
from runner.report.run_files import read_run
from runner.report.verdict import judge
from runner.run_info import RunInfo
from tests.runner.report.page import change, html
from tests.runner.run_folder import write_run_folder


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
