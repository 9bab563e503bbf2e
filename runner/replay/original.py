"""The run that is to be repeated: its files, and the configuration that its manifest holds."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.command import path_value
from runner.config import Config, parse
from runner.errors import ConfigError
from runner.report.run_files import ReportError, RunFiles, read_run

REPLAYS = "replays"  # beside the recipes' folders in the output root


@dataclass(frozen=True)
class Original:
    """A finished run. ``resolved`` is the configuration of its replay, as plain data and as ``config``."""

    files: RunFiles
    config: Config
    resolved: dict[str, Any]

    @property
    def run_dir(self) -> Path:
        """The run's folder, absolute."""
        return self.files.run_dir

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run noted at its end."""
        return self.files.manifest

    def command(self) -> list[str]:
        """What carries its replay on, should that be interrupted."""
        words = [str(word) for word in self.manifest.get("command") or ["runner"]]
        return [*words, f"output_root={path_value(Path(self.config.output_root))}"]


def read_original(path: Path, into: Path | None) -> Original:
    """Read a run folder.

    Args:
        path: the run's folder.
        into: where the replay's own folder is made; ``None`` is ``replays`` in the run's output root.

    Raises:
        ConfigError: it is no finished run, or this version does not know its configuration.
    """
    run_dir = path.absolute()
    try:
        files = read_run(run_dir)
    except ReportError as error:
        raise ConfigError(f"only a finished run can be replayed: {error}") from None
    recorded = files.manifest.get("config")
    if not isinstance(recorded, dict):
        raise ConfigError(f"{run_dir / 'manifest.json'} holds no configuration")
    root = run_dir.parents[1] if run_dir.parents[1].name == REPLAYS else run_dir.parents[1] / REPLAYS
    resolved = json.loads(json.dumps(recorded)) | {"output_root": str((into or root).absolute()), "resume": None}
    tracking = resolved.get("tracking") or {}
    if tracking.get("kind") == "mlflow" and files.tracking is not None:
        tracking["tracking_uri"] = files.tracking.get("tracking_uri")  # the run's own, wherever that was
    try:
        return Original(files, parse(resolved), resolved)
    except ConfigError as error:
        commit = (files.manifest.get("git") or {}).get("commit")
        version = ((files.manifest.get("environment") or {}).get("packages") or {}).get("galley")
        raise ConfigError(
            f"this version cannot read the configuration of {run_dir}: {error}\n"
            f"it was written by galley {version}{f', commit {commit}' if commit else ''}"
        ) from None


def enter_folder(original: Original) -> str | None:
    """Go to the folder from which the run was started, because its paths are relative to that; says so if it is
    another one. One that is gone is left alone."""
    folder = original.manifest.get("folder")
    if not folder or not Path(folder).is_dir() or Path(folder).resolve() == Path.cwd().resolve():
        return None
    os.chdir(folder)
    return f"working in {folder}, where the run was started"
