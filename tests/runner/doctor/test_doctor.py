"""``runner doctor``: each kind of finding, its fix, and the exit code."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from runner.doctor import kernels, libraries, machine
from runner.doctor.command import as_line
from runner.doctor.finding import Finding, worst
from runner.doctor.tracking import check_tracking
from tests.runner.launch import refused, run, succeed


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_this_machine_is_looked_at_from_libraries_to_kernels(tmp_path: Path) -> None:
    result = run(tmp_path, "doctor", "--json")
    found = {one["what"]: one for one in json.loads(result.stdout)}
    assert {"python", "memory", "disk of outputs", "mlflow", "cpu", "cpu attention", "cpu sampling"} <= found.keys()
    assert all(one["level"] == "OK" for what, one in found.items() if what.startswith("cpu "))
    assert result.returncode == any(one["level"] == "FAIL" for one in found.values())
    assert all(one["fix"] for one in found.values() if one["level"] != "OK")


def test_what_fails_is_a_line_with_its_fix_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_text("no database")
    result = run(tmp_path, "doctor", "--tracking-uri", f"sqlite:///{tmp_path}/broken.db")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("FAIL")]
    assert "broken.db is no MLflow database" in lines[at]
    assert "-> move it away" in lines[at + 1]
    assert "1 FAIL" in lines[-1]


def test_libraries_outside_their_range_or_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch>=99", "no-such-library>=1", "numpy>=1", 'pytest>=99; extra == "dev"']
    monkeypatch.setattr(libraries, "requires", lambda _: declared)
    python, torch, missing = libraries.check_libraries()
    assert python.level == "OK"
    assert torch == Finding("FAIL", "library torch", f"{version('torch')}; supported >=99", "pip install 'torch>=99'")
    assert missing == Finding(
        "FAIL", "library no-such-library", "missing; needed >=1", "pip install 'no-such-library>=1'"
    )


def test_thread_settings() -> None:
    cores = machine.available_cores()
    fine = list(machine.check_threads({"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(cores)}))
    assert {one.level for one in fine} == {"OK"}
    spinning, many, interpreted = machine.check_threads(
        {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": str(cores + 1), "TRITON_INTERPRET": "1"}
    )
    assert (spinning.level, many.level, interpreted.level) == ("WARN", "WARN", "WARN")
    assert "unset OMP_WAIT_POLICY" in spinning.fix
    assert f"at most {cores}" in many.fix
    assert list(machine.check_threads({"OMP_NUM_THREADS": "two"}))[1].level == "FAIL"


def test_a_full_disk_and_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 100 << 20})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    outputs, _ = machine.check_disk(tmp_path / "not" / "there")
    assert outputs.level == "FAIL"
    assert "0.1 GiB free" in outputs.found
    assert "output_root=FOLDER" in outputs.fix
    (tmp_path / "file").touch()
    outputs, _ = machine.check_disk(tmp_path / "file" / "below")
    assert outputs.level == "FAIL"
    assert "cannot be written" in outputs.found


def test_an_mlflow_store_is_counted_made_later_or_refused(tmp_path: Path) -> None:
    assert "is made by the first run" in only(check_tracking(None, tmp_path)).found
    assert not list(tmp_path.iterdir())
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.executescript("CREATE TABLE runs (id); INSERT INTO runs VALUES (1), (2)")
    assert "2 runs" in only(check_tracking(None, tmp_path)).found
    assert only(check_tracking("http://127.0.0.1:9", tmp_path)).level == "FAIL"
    assert only(check_tracking("elephants://x", tmp_path)).level == "FAIL"


def test_a_gpu_in_use_is_a_warning() -> None:
    assert machine._gpu("Card", 0, 78 << 30, 80 << 30).level == "OK"
    assert machine._gpu("Card", 0, 30 << 30, 80 << 30).level == "WARN"


def test_a_wrong_kernel_and_one_that_does_not_compile_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels import norm

    monkeypatch.setattr(norm, "add_rms_norm", lambda x, residual, weight, eps: norm.reference(x, residual, weight, 9.0))
    found = {one.what: one for one in kernels.check_kernels()}
    assert found["cpu norm"].level == "FAIL"
    assert "rounding explains 1e-05" in found["cpu norm"].found
    assert found["cpu activation"].level == "OK"

    def broken(*_: object) -> None:
        raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(norm, "add_rms_norm", broken)
    found = {one.what: one for one in kernels.check_kernels()}
    assert found["cpu norm"].found == "RuntimeError: no compiler"


def test_the_worst_decides_and_a_fix_stands_below() -> None:
    assert worst([]) == "OK"
    assert worst([Finding("WARN", "a", "b", "c"), Finding("OK", "d", "e")]) == "WARN"
    first, second = as_line(Finding("WARN", "disk", "full", "free some")).splitlines()
    assert first.startswith("WARN  disk")
    assert second.strip() == "-> free some"


def test_help_imports_nothing_heavy_and_wrong_flags_are_one_message(tmp_path: Path) -> None:
    assert "exit code 1 if anything FAILs" in succeed(tmp_path, "doctor", "--help").stdout
    assert "--jsn" in refused(tmp_path, "doctor", "--jsn")
    code = (
        "import sys; from runner.cli import main; main(['doctor', '--help']); main(['replay', '--help']);"
        "print([n for n in ('torch', 'transformers', 'mlflow', 'triton', 'numba') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
