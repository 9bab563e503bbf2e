"""The manifest names what decided the results, and shows no secret."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner import manifest
from tests.runner.run_folder import make_run


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_git_state_tells_clean_from_changed(repository: Path) -> None:
    clean = manifest.git_state(repository)
    assert clean == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False, "diff_digest": None}
    (repository / "code.py").write_text("x = 2\n")
    first = manifest.git_state(repository)
    (repository / "code.py").write_text("x = 3\n")
    second = manifest.git_state(repository)
    assert first is not None
    assert second is not None
    assert first["dirty"] is True
    assert first["diff_digest"] != second["diff_digest"]


def test_no_repository_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert manifest.git_state(tmp_path) is None


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert manifest.digest_file(tmp_path / "file") == "sha256:" + hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        manifest.digest_file(tmp_path / "missing")


def test_manifest_keeps_what_it_was_given(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=4)
    built = manifest.build(run, dataset={"digest": "d"}, model={"name": "m"}, outputs={"outputs.jsonl": "o"})
    again = json.loads(json.dumps(built, allow_nan=False))
    assert again["config"] == run.config
    assert again["config_hash"] == run.config_hash
    assert again["command"] == ["runner", "+recipe=demo"]
    assert (again["dataset"], again["model"], again["outputs"]) == (
        {"digest": "d"},
        {"name": "m"},
        {"outputs.jsonl": "o"},
    )
    assert again["environment"]["packages"]["torch"]
    assert again["environment"]["cpu_cores"] >= 1
    assert again["written_at"].endswith("Z")


def test_variables_are_the_relevant_ones_without_secrets() -> None:
    source = {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0", "GALLEY_API_KEY": "hidden", "HOME": "/home/me"}
    shown = manifest.variables(source)
    assert shown == {"CUDA_VISIBLE_DEVICES": "0", "GALLEY_API_KEY": "(not shown)", "OMP_NUM_THREADS": "2"}


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA Card, 570.1, 81559 MiB, 700.00 W, 1980 MHz'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    expected = {"name": "NVIDIA Card", "driver": "570.1", "memory": "81559 MiB"}
    assert manifest.gpus() == [expected | {"power_limit": "700.00 W", "max_sm_clock": "1980 MHz"}]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert manifest.gpus() == []


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, runner.manifest as m; m.environment(); "
        "print([n for n in ('torch', 'transformers', 'mlflow', 'triton') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
