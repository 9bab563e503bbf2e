"""A run to report on."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.run_info import RunInfo
from tests.runner.run_folder import write_run_folder


@pytest.fixture
def run(tmp_path: Path) -> RunInfo:
    return write_run_folder(tmp_path, rows=160)
