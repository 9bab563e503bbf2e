"""The demo of sweeps, on the null engine: killed twice, and complete in the end."""

from __future__ import annotations

import json
from pathlib import Path

from tests.runner.launch import run_dirs, start, succeed
from tests.runner.sweep.sweeps import outputs, rows_of, states, sweep_in, table, wait_for
from tests.runner.sweep.test_mlflow import database, family

WORDS = ("+recipe=sweep_demo", "engine=null_engine", "engine.seconds_per_step=0.01", "hydra.launcher.jobs=3")
RECIPE = "sweep_demo"


def test_killed_twice_it_ends_complete_with_one_parent_twelve_children_and_one_report(tmp_path: Path) -> None:
    for place in (3, 8):
        process = start(tmp_path, *WORDS)
        wait_for(process, tmp_path, lambda sweep, place=place: rows_of(sweep, place) >= 1)  # type: ignore[misc]
        process.kill()
        process.communicate()
    result = succeed(tmp_path, *WORDS)
    assert "resuming the sweep sweep_demo, 12 jobs" in result.stderr
    sweep = sweep_in(tmp_path, RECIPE)
    assert [state.standing for state in states(sweep)] == ["finished"] * 12
    assert len(run_dirs(tmp_path, RECIPE)) == 12
    assert len(set(outputs(sweep))) == 1
    assert len(outputs(sweep)[0].splitlines()) == 12
    parent, children = family(database(tmp_path), sweep)
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * 12
    assert [child.data.tags["galley.repeat"] for child in children] == ["1"] * 4 + ["2"] * 4 + ["3"] * 4
    assert [line["state"] for line in table(sweep)] == ["finished"] * 12
    (report,) = (tmp_path / "outputs" / RECIPE).glob("sweep-*/report.html")
    before = report.read_bytes()
    report.unlink()
    succeed(tmp_path, "report", str(sweep.path))
    assert report.read_bytes() == before
    assert b"COMPLETE" in before
    assert b"Pareto front" in before


def test_the_report_shows_what_the_runs_measured(tmp_path: Path) -> None:
    words = (*WORDS, "tracking=none", "sweep.repeats=1", "engine.max_num_seqs=1,8")
    succeed(tmp_path, *words)
    sweep = sweep_in(tmp_path, RECIPE)
    found = []
    for state in states(sweep):
        assert state.run_dir is not None
        content = json.loads((state.run_dir / "metrics.json").read_text())["metrics"]
        found.append(content["output_tokens_per_s"])
    lines = table(sweep)
    assert [float(line["output_tokens_per_s"]) for line in lines] == found
    assert found[1] > found[0]  # more at once: the null engine's steps take as long for eight as for one
    text = (sweep.path / "report.md").read_text()
    for number, value in enumerate(found, start=1):
        assert f"| {number} | engine.max_num_seqs={(1, 8)[number - 1]} | 1 | {value:,.0f} |" in text or value < 1000
