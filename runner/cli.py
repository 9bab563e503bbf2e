"""The command ``runner``. Hydra composes here; nothing below this module sees it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError, Interrupted, RunFailedError, RunnerError, nearest
from runner.recipes import describe, find_recipes, user_folders
from runner.threads import set_thread_defaults

if TYPE_CHECKING:
    from hydra.types import RunMode
    from omegaconf import DictConfig

COMMANDS = ("list", "report", "compare")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code.

    0 done, 1 the run failed, 2 the command or configuration is wrong, 3 a requirement is not met or B is worse,
    4 outputs differ, 130 SIGINT, 143 SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    set_thread_defaults(os.environ)
    try:
        return _dispatch(words)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interrupt:
        return 128 + interrupt.signal_number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe went away: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(words: list[str]) -> int:
    options, _ = _own_options().parse_known_args(words)
    folders = user_folders(options.config_dir)
    if words and words[0] in COMMANDS:
        return _command(words[0], words[1:], folders)
    if words and "=" not in words[0] and not words[0].startswith(("-", "~")):
        raise ConfigError(
            f"there is no command {words[0]!r}{nearest(words[0], COMMANDS)}\ncommands: {', '.join(COMMANDS)}; "
            f"a recipe runs as: runner +recipe=NAME"
        )
    return _Composition(words, folders, options.config_dir).run()


def _own_options() -> argparse.ArgumentParser:
    """The one flag of Hydra's that is needed before Hydra: where else recipes are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", default=None)
    return parser


def _command(name: str, words: list[str], folders: list[Path]) -> int:
    """What is no recipe; each command imports its own part alone."""
    if name == "compare":
        from runner.compare.command import run_compare

        return run_compare(words)
    return _report(words) if name == "report" else _list(folders)


def _list(folders: list[Path]) -> int:
    print(describe(find_recipes(folders)))
    return 0


def _report(words: list[str]) -> int:
    if len(words) != 1:
        raise ConfigError("runner report takes the folder of one run: runner report outputs/RECIPE/RUN")
    from runner.report import ReportError, build_report

    try:
        for path in build_report(Path(words[0])):
            print(path)
    except ReportError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise RunFailedError(f"the report cannot be written: {error}") from None
    return 0


class _Composition:
    """Hydra's part: composes, then runs each job. In a sweep a failed job does not stop the ones after it."""

    def __init__(self, words: list[str], folders: list[Path], config_dir: str | None) -> None:
        self._words, self._folders, self._config_dir = words, folders, config_dir
        self._exit_code = 0

    def run(self) -> int:
        """Compose and run; the worst job's exit code."""
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here as exceptions instead of Hydra printing them
        import hydra

        from runner.composition import COMPOSITION_ERRORS, check_overrides, explain
        from runner.recipe_source import register_folders

        check_overrides([word for word in self._words if not word.startswith("-")], find_recipes(self._folders))
        register_folders(self._folders)
        compose = hydra.main(version_base="1.3", config_path="pkg://recipes", config_name="config")(self._job)
        before, sys.argv = sys.argv, ["runner", *self._words]
        try:
            compose()
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error)) from None
        except SystemExit as ended:  # after --help and the like, and for wrong flags
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            sys.argv = before
        return self._exit_code

    def _job(self, composed: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        from runner.composition import plain_data
        from runner.config import parse

        try:
            overrides = list(HydraConfig.get().overrides.task)
            resolved = plain_data(composed, overrides)
            config = parse(resolved)
            from runner.run import run

            run(config, resolved, self._command(overrides, HydraConfig.get().mode))
        except RunnerError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            self._exit_code = max(self._exit_code, error.exit_code)

    def _command(self, overrides: list[str], mode: RunMode | None) -> list[str]:
        """What starts or resumes this job alone, also where the recipe itself asks for a sweep."""
        folder = [] if self._config_dir is None else ["--config-dir", self._config_dir]
        swept = mode is not None and mode.name == "MULTIRUN" and not {"-m", "--multirun"} & set(self._words)
        alone = ["hydra.mode=RUN"] if swept or "hydra.mode=RUN" in self._words else []
        return ["runner", *folder, *(w for w in overrides if not w.lstrip("+").startswith("resume=")), *alone]
