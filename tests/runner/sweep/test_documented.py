"""The sweeps that docs/sweeps.md shows are run over two rows each, on the null engine or, where they search arguments
that only the native engine has, on one layer of random weights.

``sweep_demo`` and its report are run in ``test_sweep_demo``.
"""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import pytest

from runner.sweep.folder import read_sweep
from tests.runner.launch import NULL, succeed
from tests.runner.sweep.sweeps import states
from tests.runner.sweep.test_declared import documented

FEWER = ("++dataset.limit=2", "hydra.launcher.jobs=2", "require=[]")
SEARCH = (
    "sweep.search.trials=2", "dataset.rows=2", "dataset.output_length.tokens=4", "tracking=none", "engine.device=cpu",
    "model.config.num_hidden_layers=1",
)  # fmt: skip
COMMANDS = [shlex.join(words) for words in documented() if "+recipe=sweep_demo" not in words]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    searching = any("sweep.search" in word for word in words)
    if searching and importlib.util.find_spec("optuna") is None:
        pytest.skip("the extra `search` is not installed")
    succeed(tmp_path, *words, *(SEARCH if searching else (*NULL, *FEWER)))
    (folder,) = (tmp_path / "outputs").glob("*/sweep-*")
    found = states(read_sweep(folder))
    assert len(found) > 1
    assert {state.standing for state in found} == {"finished"}
    assert (folder / "report.html").is_file()
