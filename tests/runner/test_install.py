"""``pip install .`` alone gives a working ``runner``: its recipes, data and templates are in the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner.launch import ROOT, SECONDS, environment

PACKAGES = ("engine", "kernels", "runner", "recipes", "hydra_plugins")
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip installs, without the dependencies. Built from a copy, because pip leaves its traces in the sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def call(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed command, from a folder that is not the repository, with nothing of the repository on the path."""
    place = environment() | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [str(installed / "bin" / "runner"), *words],
        cwd=folder,
        env=place,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_installed_command_has_its_recipes_and_their_data(installed: Path, tmp_path: Path) -> None:
    listed = call(installed, tmp_path, "list").stdout
    for path in (ROOT / "recipes" / "recipe").glob("*.yaml"):
        assert f"{path.stem} " in listed
    call(installed, tmp_path, "+recipe=demo", "engine=null_engine", "tracking=none")
    (folder,) = (tmp_path / "outputs" / "demo").iterdir()
    assert len((folder / "outputs.jsonl").read_text().splitlines()) == 24
    page = (folder / "report.html").read_text()
    assert (ROOT / "runner" / "report" / "templates" / "report.css").read_text().strip()[:200] in page


def test_what_ran_was_what_was_installed(installed: Path, tmp_path: Path) -> None:
    code = "import engine, kernels, runner, recipes; print(*(m.__file__ for m in (engine, kernels, runner, recipes)))"
    place = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=place, capture_output=True, text=True)
    assert [Path(name).parent.parent for name in done.stdout.split()] == [installed] * 4


def test_every_file_of_the_packages_is_in_it(installed: Path) -> None:
    kinds = (".py", ".yaml", ".jsonl", ".j2", ".css", ".typed", ".c", ".cpp", ".cu", ".h")
    for name in PACKAGES:
        for path in (ROOT / name).rglob("*"):
            if path.suffix in kinds:
                assert (installed / path.relative_to(ROOT)).is_file(), path
