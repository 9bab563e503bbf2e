"""Quality metrics and requirements in whole runs of the null engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from runner.cli import main
from tests.runner.launch import NULL, ROOT, environment, only_run, refused, run, run_dirs, start, succeed, wait_for_rows
from tests.runner.launch import records as read_lines

METRICS = (
    "metrics=[{kind: rouge, reference: highlights}, {kind: chrf, reference: highlights}, {kind: length}, "
    "{kind: regex_match, pattern: 'cache.*token'}]"
)
WORDS = ("+recipe=demo", *NULL, "progress=false", "measure.roofline=false")


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def test_figures_are_in_metrics_scores_and_report(tmp_path: Path) -> None:
    result = succeed(tmp_path, *WORDS, METRICS, 'require=["output_words > 2", "rows/ok == 24"]')
    folder = only_run(tmp_path)
    rows, content = read_lines(folder / "outputs.jsonl"), metrics_of(folder)
    scores = pq.read_table(folder / "scores.parquet").to_pydict()
    assert scores["id"] == [row["id"] for row in rows]
    words = [len(row["output"].split()) for row in rows]
    assert scores["output_words"] == words
    assert content["metrics"]["output_words"] == pytest.approx(sum(words) / 24)
    assert content["metrics"]["output_words/low"] < sum(words) / 24 < content["metrics"]["output_words/high"]
    assert all("highlights" in row for row in rows), "the reference goes into the records"
    assert [one["met"] for one in content["requirements"]] == [True, True]
    report = (folder / "report.md").read_text()
    assert report.startswith("# demo: VALID\n")
    assert "| ROUGE-1 |" in report
    assert "| output_words > 2: it is " in report
    page = (folder / "report.html").read_text()
    assert 'data-metric="rouge1/low"' in page
    assert "met: rows/ok == 24: it is 24" in page
    assert "output_words" in result.stdout
    assert "met: rows/ok == 24: it is 24" in result.stdout


def test_a_requirement_that_is_not_met_ends_with_3(tmp_path: Path) -> None:
    require = 'require=["rouge1 >= 0.40", "ttft_ms/p99 < 2000", "rows/ok >= 1"]'
    text = refused(tmp_path, *WORDS, METRICS, require, code=3)
    assert "required: rouge1 >= 0.40: it is 0.000" in text
    assert "required: ttft_ms/p99 < 2000: it is not given (needs at least 100 samples, there are 24)" in text
    assert "rows/ok" not in text
    folder = only_run(tmp_path)
    assert len(read_lines(folder / "outputs.jsonl")) == 24
    assert (folder / "report.md").read_text().startswith("# demo: FAILED\n")
    assert "NOT MET: rouge1 &gt;= 0.40" in (folder / "report.html").read_text()
    succeed(tmp_path, "report", str(folder))
    assert (folder / "report.md").read_text().startswith("# demo: FAILED\n")
    succeed(tmp_path, *WORDS, METRICS)  # what was required does not make it another run, and that one is finished
    assert len(run_dirs(tmp_path)) == 2


def test_mlflow_has_the_figures_and_the_outcome(tmp_path: Path) -> None:
    words = [word for word in WORDS if word != "tracking=none"]
    refused(tmp_path, *words, METRICS, 'require=["rouge1 >= 0.40"]', code=3)
    record = json.loads((only_run(tmp_path) / "tracking.json").read_text())
    run = MlflowClient(record["tracking_uri"]).get_run(record["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["galley.requirements_met"] == "false"
    content = metrics_of(only_run(tmp_path))
    for name in ("rouge1", "output_words", "output_words/low"):
        assert run.data.metrics[name] == content["metrics"][name]


def test_a_killed_and_resumed_run_has_the_same_figures(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    succeed(whole, *WORDS, METRICS)
    process = start(parts, *WORDS, METRICS, "engine.seconds_per_step=0.01", "engine.max_num_seqs=2")
    wait_for_rows(process, parts, 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    succeed(parts, *WORDS, METRICS, "engine.seconds_per_step=0.01", "engine.max_num_seqs=2")
    one, other = only_run(whole), only_run(parts)
    assert len(metrics_of(other)["sessions"]) == 2
    assert (one / "scores.parquet").read_bytes() == (other / "scores.parquet").read_bytes()
    first, second = metrics_of(one), metrics_of(other)
    names = [name for about in first["quality"] for name in about["names"]]
    for name in [name + part for name in names for part in ("", "/low", "/high")]:
        assert first["metrics"][name] == second["metrics"][name], name


def test_it_works_without_a_network(tmp_path: Path) -> None:
    """Any connection is an error: no library fetches data."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*a, **k): raise RuntimeError('no network here')\n"
        "socket.socket.connect = refuse\nsocket.getaddrinfo = refuse\n"
    )
    place = environment() | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "HOME": str(tmp_path)}
    metrics = METRICS.replace("rouge,", "rouge, types: [rouge1, rougeLsum], use_stemmer: true,")
    metrics = metrics.replace("{kind: length}", "{kind: length}, {kind: bleu, reference: highlights}")
    done = subprocess.run(
        [sys.executable, "-m", "runner", *WORDS, metrics], cwd=tmp_path, env=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert metrics_of(only_run(tmp_path))["quality"][0]["rows_failed"] == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("metrics=[{kind: rogue}]", "metrics[0].kind='rogue' is not allowed"),
        ("metrics=[{kind: rouge, reference: highlight}]", "did you mean 'highlights'?"),
        ("metrics=[{kind: bleu, reference: highlights, types: [x]}]", "has no meaning for metrics[0].kind='bleu'"),
        ("metrics=[{kind: length, refrence: x}]", "unknown key metrics[0].refrence='x'; did you mean"),
        ("metrics=[{kind: rouge, reference: highlights, types: [rouge9]}]", "metrics[0].types[0]='rouge9'"),
        ("metrics=[{kind: rouge, reference: highlights, types: []}]", "metrics[0].types=[] is not allowed"),
        ("metrics=[{kind: regex_match, pattern: '('}]", "it must be a regular expression"),
        ("metrics=[{kind: length}, {kind: length}]", "{kind: length, name: second}"),
        ("metrics=[{kind: exact_match, reference: output}]", "a name that the output record uses itself"),
        ("metrics=[{kind: json_valid, json_schema: {type: objekt}}]", "metrics[0].json_schema is no JSON schema"),
        ("require=['rouge1 >= 0.4']", "require[0]='rouge1 >= 0.4' names no metric of this recipe"),
        ("require=['ttft_ms/p9 < 4']", "did you mean 'ttft_ms/p99'?"),
        ("require=['ttft_ms/p99']", "it must be a metric, one of >=, <=, >, <, == and a number"),
    ],
)
def test_mistakes_are_found_before_the_engine_is_built(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which spares a start for each."""
    code = main([*WORDS, word, "engine.startup_seconds=50", f"output_root={tmp_path}"])
    text = capsys.readouterr().err
    assert (code, text.count("error: ")) == (2, 1), text
    assert message in text
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_the_engine_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    code = main([*WORDS, METRICS, "engine.startup_seconds=50", f"output_root={tmp_path}"])
    text = capsys.readouterr().err
    assert code == 2
    assert "metrics[0].kind='rouge' needs a package that is not installed" in text


def test_metrics_have_no_meaning_without_text(tmp_path: Path) -> None:
    message = refused(tmp_path, "+recipe=embed", *NULL, "metrics=[{kind: length}]")
    assert "metrics judge text: they have no meaning for task=embed" in message


def test_compare_judges_quality_row_by_row(tmp_path: Path) -> None:
    """Outputs of one run are made longer in half of the rows: a difference that rows show though each run is alone."""
    for _ in range(2):
        succeed(tmp_path, *WORDS, METRICS, f"name=run{_}")
    a, b = only_run(tmp_path, "run0"), only_run(tmp_path, "run1")
    same = run(tmp_path, "compare", str(a), str(b))
    assert same.returncode == 0, same.stderr
    assert "Timings: not enough data (1 run" in same.stdout
    assert "Quality: no difference found." in same.stdout
    scores = pq.read_table(b / "scores.parquet")
    place = scores.column_names.index("chrf")
    changed = [value * (0.8 if row % 2 else 0.95) for row, value in enumerate(scores["chrf"].to_pylist())]
    pq.write_table(scores.set_column(place, "chrf", [changed]), b / "scores.parquet")
    worse = run(tmp_path, "compare", str(a), str(b))
    assert worse.returncode == 3, worse.stderr
    assert "Quality: B is worse (chrf worse)." in worse.stdout
    (line,) = [line for line in worse.stdout.splitlines() if line.startswith("chrf (24 rows)")]
    assert "-12." in line or "-13." in line
