"""The same recipes with Hydra's launchers for clusters, each on this machine alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.runner.launch import articles, run, run_dirs, start, succeed
from tests.runner.sweep.sweeps import QUICK, SLOW, outputs, rows_of, states, sweep_in, wait_for


def check_failure_and_resume(folder: Path, launcher: str) -> None:
    """One of three jobs fails and is named; the same command tries that one alone again."""
    articles(folder, 5)
    words = (*QUICK, "engine.fail_after=null,2,9", f"hydra/launcher={launcher}")
    result = run(folder, *words)
    assert result.returncode == 1, result.stderr
    assert "fails after 2 outputs" in result.stderr
    sweep = sweep_in(folder)
    assert [state.standing for state in states(sweep)] == ["finished", "failed", "finished"]
    assert len(run_dirs(folder)) == 3
    assert len(set(outputs(sweep)[::2])) == 1
    run(folder, *words)
    assert [state.starts for state in states(sweep_in(folder))] == [1, 2, 1]
    assert len(list((folder / "outputs" / "demo").glob("sweep-*"))) == 1
    assert {path.name for path in (folder / "outputs").iterdir()} == {"demo"}


def test_submitits_local_executor(tmp_path: Path) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="the extra 'cluster' (submitit) is not installed"
    )
    check_failure_and_resume(tmp_path, "submitit_local")


def test_a_killed_job_under_submitit_leaves_the_others_running(tmp_path: Path) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="the extra 'cluster' (submitit) is not installed"
    )
    articles(tmp_path, 40)
    words = (*(word for word in SLOW if not word.startswith("sampling")), "sampling.max_tokens=7,8")
    process = start(tmp_path, *words, "hydra/launcher=submitit_local")
    sweep = wait_for(process, tmp_path, lambda sweep: rows_of(sweep, 1) >= 1)
    pid = sweep.state(sweep.jobs[0]).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1, err
    assert [state.standing for state in states(sweep)] == ["failed", "finished"]
    assert "SIGKILL" in err
    succeed(tmp_path, *words, "hydra/launcher=submitit_local")
    assert [state.starts for state in states(sweep)] == [2, 1]


def test_a_local_ray_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' (Ray) is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    check_failure_and_resume(tmp_path, "ray")
