"""The command lines that start a run or a sweep again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from runner.errors import ConfigError

_OF_THE_SWEEP = ("resume", "job", "sweep")


def config_dir_of(words: Sequence[str]) -> str | None:
    """The folder of ``--config-dir``: the one flag of Hydra's that is needed before Hydra.

    Raises:
        ConfigError: it names none.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd", default=None)
    try:
        found: str | None = parser.parse_known_args(list(words))[0].config_dir
    except argparse.ArgumentError:
        raise ConfigError("--config-dir needs a folder: --config-dir FOLDER") from None
    return found


def run_command(config_dir: str | None, overrides: Sequence[str], alone: bool) -> list[str]:
    """What starts or resumes one run: without ``resume`` and without what only a sweep means.

    Args:
        config_dir: the folder that ``--config-dir`` named.
        overrides: Hydra's, of the task.
        alone: say that nothing is to be swept, also where the recipe itself asks for it.
    """
    folder = [] if config_dir is None else ["--config-dir", config_dir]
    kept = [word for word in overrides if word.lstrip("+").partition("=")[0].split(".")[0] not in _OF_THE_SWEEP]
    return ["runner", *folder, *kept, *(["hydra.mode=RUN"] if alone else [])]


def path_value(path: Path) -> str:
    """A path as a value in Hydra's grammar."""
    text = str(path)
    plain = all(character.isalnum() or character in "/-_.+" for character in text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
