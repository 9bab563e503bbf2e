"""The command ``runner``. Hydra composes here; nothing below this module sees it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from runner.command import config_dir_of, run_command
from runner.errors import ConfigError, Interrupted, RunFailedError, RunnerError, nearest
from runner.flags import check_flags
from runner.recipes import Recipe, describe, find_recipes, user_folders
from runner.terminal import show_what_can_be_shown
from runner.threads import set_thread_defaults

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMANDS = ("list", "report", "compare", "replay", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code.

    0 done, 1 the run failed, 2 the command or configuration is wrong, 3 a requirement is not met or B is worse,
    4 outputs differ, 5 a replay's inputs differ, 130 SIGINT, 143 SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    set_thread_defaults(os.environ)
    show_what_can_be_shown()
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
    if words and words[0] in COMMANDS:
        return _command(words[0], words[1:])
    if words[:1] == ["--version"]:
        print(f"galley {version('galley')}")
        return 0
    check_flags(words)
    config_dir = config_dir_of(words)
    folders = user_folders(config_dir)
    if words and "=" not in words[0] and not words[0].startswith(("-", "~")):
        name = next((recipe.name for recipe in find_recipes(folders) if recipe.name == Path(words[0]).stem), None)
        meant = nearest(words[0], COMMANDS) if name is None else f"; did you mean +recipe={name}?"
        raise ConfigError(
            f"there is no command {words[0]!r}{meant}\ncommands: {', '.join(COMMANDS)}; "
            f"a recipe runs as: runner +recipe=NAME"
        )
    return _Composition(words, folders, config_dir).run()


def _command(name: str, words: list[str]) -> int:
    """What is no recipe; each command imports its own part alone."""
    if name == "compare":
        from runner.compare.command import run_compare

        return run_compare(words)
    if name == "replay":
        from runner.replay.command import run_replay

        return run_replay(words)
    if name == "doctor":
        from runner.doctor.command import run_doctor

        return run_doctor(words)
    return _report(words) if name == "report" else _list(words)


def _list(words: list[str]) -> int:
    if words[:1] in (["--help"], ["-h"]):
        print("usage: runner list [--config-dir FOLDER]\nthe recipes found, a line each")
        return 0
    named = 2 if words[:1] in (["--config-dir"], ["-cd"]) else len(words) and words[0].startswith("--config-dir=")
    if words[named:]:
        raise ConfigError(f"runner list takes --config-dir FOLDER at most; given: {' '.join(words)}")
    print(describe(find_recipes(user_folders(config_dir_of(words)))))
    return 0


def _report(words: list[str]) -> int:
    if words[:1] in (["--help"], ["-h"]):
        print("usage: runner report PATH\nwrites report.md and report.html of a run or sweep again, from its files")
        return 0
    if len(words) != 1:
        raise ConfigError("runner report takes the folder of one run or sweep: runner report outputs/RECIPE/RUN")
    from runner.report import ReportError, build_report, build_sweep_report
    from runner.sweep.folder import is_sweep

    path = Path(words[0])
    try:
        for written in build_sweep_report(path) if is_sweep(path) else build_report(path):
            print(written)
    except ReportError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise RunFailedError(f"the report cannot be written: {error}") from None
    return 0


class _Composition:
    """Hydra's part: composes, then runs what was composed, or hands a sweep to its sweeper."""

    def __init__(self, words: list[str], folders: list[Path], config_dir: str | None) -> None:
        self._words, self._folders, self._config_dir = words, folders, config_dir
        self._exit_code = 0
        self._sweeps = False
        self._recipes: list[Recipe] = []

    def run(self) -> int:
        """Compose and run; the worst job's exit code."""
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here as exceptions instead of Hydra printing them
        import hydra

        from runner.composition import check_overrides
        from runner.recipe_source import register_folders

        self._recipes = find_recipes(self._folders)
        check_overrides([word for word in self._words if not word.startswith("-")], self._recipes)
        register_folders(self._folders)
        self._compose(hydra, self._words)
        if self._sweeps:  # the recipe's section asks for it
            self._compose(hydra, [*self._words, "hydra.mode=MULTIRUN"])
        return self._exit_code

    def _compose(self, hydra: ModuleType, words: list[str]) -> None:
        from runner.composition import COMPOSITION_ERRORS, explain

        compose = hydra.main(version_base="1.3", config_path="pkg://recipes", config_name="config")(self._job)
        before, sys.argv = sys.argv, ["runner", *words]
        try:
            compose()
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error, self._recipes)) from None
        except SystemExit as ended:  # after --help and the like, and for wrong flags
            self._exit_code = ConfigError.exit_code if ended.code else 0
        finally:
            sys.argv = before

    def _job(self, composed: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        from runner.composition import plain_data
        from runner.config import parse

        try:
            if composed.job is not None:
                self._run_job(Path(str(composed.job)))
                return
            overrides, mode = list(HydraConfig.get().overrides.task), HydraConfig.get().mode
            alone = "hydra.mode=RUN" in self._words or (mode is not None and mode.name == "MULTIRUN")
            resolved = plain_data(composed, overrides)
            config = parse(resolved)
            if config.sweep.asked and not alone:
                self._sweeps = True
                return
            from runner.run import run

            run(config, resolved, run_command(self._config_dir, overrides, alone))
        except RunnerError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            self._exit_code = max(self._exit_code, error.exit_code)

    def _run_job(self, file: Path) -> None:
        """A job of a sweep, where a launcher of Hydra's has brought it. Those may use a process for several jobs: each
        gets a fresh one here too, whose death this process can tell of."""
        from runner.sweep.job_file import read_job_file
        from runner.sweep.local import LocalJobs
        from runner.sweep.slots import Slot

        LocalJobs([Slot("here", {})], False, dict(os.environ)).run([read_job_file(file)])
