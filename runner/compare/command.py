"""``runner compare``: arguments, what is printed, and the exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import NoReturn

from runner.compare.comparison import MARGIN, Comparison, compare
from runner.compare.run_set import open_sets
from runner.compare.show import as_data, as_text
from runner.compare.timings import comparable
from runner.errors import ConfigError, RunFailedError, nearest

WORSE = 3
OUTPUTS_DIFFER = 4
USAGE = """runner compare A B [--json] [--metric NAME] [--margin SHARE]
A and B: a run's folder, a folder of runs (a sweep), a glob, or several with commas between; PATH@key=value keeps the
runs of one configuration. One PATH alone must hold two configurations."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"runner compare: {message}\nusage: {USAGE}")


def run_compare(words: Sequence[str]) -> int:
    """Compare and print.

    Returns:
        0: B is no worse and no output differs; 3: B is worse in a metric; 4: nothing is worse, and outputs differ.
        Too few repeats for a verdict count as no worse.

    Raises:
        ConfigError: the arguments are wrong, or what they name is no run.
        RunFailedError: a file of a run is damaged.
    """
    options = _options(words)
    if options is None:
        print(f"usage: {USAGE}\nexit codes: 0 B is no worse, 3 B is worse in a metric, 4 only outputs differ")
        return 0
    a, b = open_sets(options.paths)
    try:
        found = compare(a, b, options.metric, options.margin)
    except (ValueError, OSError) as error:
        raise RunFailedError(f"the runs cannot be compared: {error}") from None
    print(json.dumps(as_data(found), indent=2) if options.json else as_text(found))
    return exit_code(found)


def exit_code(found: Comparison) -> int:
    """The comparison as an exit code."""
    if any(line.verdict == "worse" for line in found.lines):
        return WORSE
    return OUTPUTS_DIFFER if found.outputs is not None and not found.outputs.same else 0


def _options(words: Sequence[str]) -> argparse.Namespace | None:
    """The options, or ``None`` if help was asked for."""
    parser = _Parser(prog="runner compare", add_help=False)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--metric", default=None)
    parser.add_argument("--margin", type=float, default=MARGIN)
    parser.add_argument("-h", "--help", action="store_true")
    options = parser.parse_intermixed_args(list(words))
    if options.help:
        return None
    if len(options.paths) not in (1, 2):
        parser.error(f"takes one or two paths, {len(options.paths)} are given")
    if options.metric is not None and options.metric not in comparable():
        names = comparable()
        parser.error(
            f"--metric={options.metric} is not allowed: it must be one of {', '.join(names)}"
            f"{nearest(options.metric, names)}"
        )
    if not 0 < options.margin < 1:
        parser.error(f"--margin={options.margin} is not allowed: it must lie between 0 and 1")
    return options
