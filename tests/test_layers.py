"""Imports go downwards only, and light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FORBIDDEN = {
    "kernels": {"engine", "runner", "transformers", "hydra", "omegaconf", "mlflow"},
    "engine": {"runner", "hydra", "omegaconf", "mlflow"},
    "engine/schedule": {"torch", "numpy", "transformers", "kernels"},
}


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield node.lineno, node.module or ""


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_downwards(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files
        for line, name in imported(file)
        if name.split(".")[0] in FORBIDDEN[folder]
    ]
    assert not wrong


def test_scheduling_knows_nothing_of_execution() -> None:
    allowed = ("engine.schedule", "engine.params")
    for file in (ROOT / "engine/schedule").glob("*.py"):
        names = [name for _, name in imported(file) if name.startswith("engine")]
        assert all(name.startswith(allowed) for name in names), (file, names)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("engine", "torch transformers numba mlflow hydra omegaconf"),
        ("engine.params, engine.args, engine.outputs, engine.stats", "torch transformers numba"),
        ("engine.schedule.scheduler", "torch numpy transformers"),
        ("engine.llm", "runner hydra omegaconf mlflow"),
        ("runner.report, runner.measure, runner.tracking, runner.manifest", "torch mlflow matplotlib transformers"),
    ],
)
def test_import_leaves_heavy_packages_alone(module: str, heavy: str) -> None:
    code = f"import sys, {module}\nprint([name for name in {heavy.split()!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
