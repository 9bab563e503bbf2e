"""What an argument of ``runner compare`` names: the repeats of one configuration."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.compare.keys import flat_keys, listed
from runner.compare.sweep_folder import is_sweep, sweep_runs
from runner.errors import ConfigError, nearest
from runner.journal import FILE_NAME
from runner.report.run_files import REQUIRED, ReportError, RunFiles, read_run

DEPTH = 3  # how far below a folder runs are looked for: SWEEP/RUN and OUTPUTS/RECIPE/RUN
REQUESTS = "requests.parquet"  # tells a run folder from a tracker's copy of a run's smaller files
MOST_NAMED = 6


@dataclass(frozen=True)
class RunSet:
    """Repeats of one configuration, the earliest first.

    Args:
        label: what the user wrote, or what tells the set from the other one.
        runs: at least one.
        unfinished: run folders that were found and have no metrics yet; they are left out.
    """

    label: str
    runs: tuple[RunFiles, ...]
    unfinished: tuple[Path, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """The first run's configuration."""
        return self.runs[0].config


def started_at(run: RunFiles) -> float:
    """When the run's first process began, in seconds since the epoch; 0 if that was not noted."""
    sessions = run.metrics.get("sessions") or []
    return float(sessions[0]["started_at"]) if sessions else 0.0


def open_sets(arguments: Sequence[str]) -> tuple[RunSet, RunSet]:
    """The two sets that one or two arguments name.

    Args:
        arguments: each a run folder, a folder of run folders (a sweep), a glob, or several of them with commas between;
            ``@key=value`` after it keeps the runs of that configuration. One argument alone must hold two
            configurations; the one that started first is A.

    Raises:
        ConfigError: nothing is there, or a set holds runs of several configurations.
    """
    if len(arguments) == 1:
        return _split(_find(arguments[0]))
    first, second = (_one(_find(argument)) for argument in arguments)
    shared = {run.run_dir.resolve() for run in first.runs} & {run.run_dir.resolve() for run in second.runs}
    if shared:
        raise ConfigError(f"A and B share the run {sorted(shared)[0]}: each run may be in one of them")
    return first, second


def _find(argument: str) -> RunSet:
    """All runs of an argument, whatever their configurations."""
    text, at, condition = argument.rpartition("@")
    if not at or "=" not in condition:
        text, condition = argument, ""
    folders = [folder for part in text.split(",") if part for folder in _folders(part)]
    unique = list({folder.resolve(): folder for folder in folders}.values())
    unfinished = tuple(folder for folder in unique if not _is_finished(folder))
    try:
        runs = [read_run(folder) for folder in unique if folder not in unfinished]
    except ReportError as error:
        raise ConfigError(str(error)) from None
    if condition:
        runs = _selected(runs, condition, argument)
    if not runs:
        what = f"{len(unfinished)} unfinished run{'s' * (len(unfinished) > 1)}" if unfinished else "no run"
        raise ConfigError(f"{argument!r} holds {what}: a finished run has {', '.join((*REQUIRED, REQUESTS))}")
    return RunSet(argument, tuple(sorted(runs, key=started_at)), unfinished)


def _folders(part: str) -> list[Path]:
    path = Path(part)
    if path.is_dir():
        return _inside(path)
    found = [Path(name) for name in sorted(glob.glob(part)) if Path(name).is_dir()]
    if found:
        return [folder for name in found for folder in _inside(name)]
    beside = path.parent if path.parent.is_dir() else Path()
    names = [other.name for other in beside.iterdir() if other.is_dir()]
    raise ConfigError(f"{part!r} is no folder, and no glob that matches one{nearest(path.name, names)}")


def _inside(folder: Path) -> list[Path]:
    """The folder itself if it is a run, a sweep's runs if it is a sweep, else the runs below it without warm-ups."""
    if _is_run(folder):
        return [folder]
    if is_sweep(folder):
        return sweep_runs(folder)[0]
    level, found, warmups = [folder], [], set[Path]()
    for _ in range(DEPTH):
        level = [child for parent in level for child in sorted(parent.iterdir()) if child.is_dir()]
        found += [child for child in level if _is_run(child)]
        warmups.update(run.resolve() for child in level if is_sweep(child) for run in sweep_runs(child)[1])
        level = [child for child in level if child not in found]
    return [run for run in found if run.resolve() not in warmups]


def _is_run(folder: Path) -> bool:
    return (folder / FILE_NAME).is_file() or _is_finished(folder)


def _is_finished(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (*REQUIRED, REQUESTS))


def _selected(runs: Iterable[RunFiles], condition: str, argument: str) -> list[RunFiles]:
    """The runs whose configuration has all of ``key=value,key=value``."""
    kept = list(runs)
    for pair in re.split(r",(?=[\w.+/-]+=)", condition):  # a value may have commas of its own
        key, equals, text = pair.partition("=")
        known = {name for run in kept for name in flat_keys(run.config)}
        if kept and (not equals or key not in known):
            raise ConfigError(f"{argument!r}: {key!r} is no key of these runs' configurations{nearest(key, known)}")
        values = sorted({repr(flat_keys(run.config).get(key)) for run in kept})
        kept = [run for run in kept if _means(text, flat_keys(run.config).get(key))]
        if not kept and values:
            raise ConfigError(f"{argument!r}: no run has {key}={text}; there {listed(values)}")
    return kept


def _means(text: str, value: Any) -> bool:
    """Whether a value is what was written: its text, YAML that gives it, or a number such as ``1e-3``, none to YAML."""
    if text == str(value):
        return True
    try:
        if isinstance(value, float):
            return float(text) == value
        return bool(yaml.safe_load(text) == value)
    except (ValueError, yaml.YAMLError):
        return False


def _groups(runs: Sequence[RunFiles]) -> dict[str, list[RunFiles]]:
    """Runs by their configuration, the earliest first."""
    groups: dict[str, list[RunFiles]] = {}
    for run in runs:
        groups.setdefault(str(run.manifest.get("config_hash")), []).append(run)
    return groups


def _one(found: RunSet) -> RunSet:
    groups = _groups(found.runs)
    if len(groups) > 1:
        raise ConfigError(
            f"{found.label!r} holds runs of {len(groups)} configurations, and repeats have one. They differ in:\n"
            f"{_varied(found.runs)}\nchoose one with {found.label}@KEY=VALUE, or name its runs with commas between"
        )
    return found


def _split(found: RunSet) -> tuple[RunSet, RunSet]:
    groups = list(_groups(found.runs).values())
    if len(groups) != 2:
        differ = f". They differ in:\n{_varied(found.runs)}" if len(groups) > 1 else ""
        raise ConfigError(
            f"{found.label!r} holds runs of {len(groups)} configuration{'s' * (len(groups) > 1)}: alone it must hold "
            f"two, else name two sets: runner compare A B, each PATH or PATH@KEY=VALUE{differ}"
        )
    sides = [flat_keys(group[0].config) for group in groups]
    keys = [key for key in sides[0].keys() | sides[1].keys() if sides[0].get(key) != sides[1].get(key)]
    labels = [", ".join(f"{key}={side.get(key)!r}" for key in sorted(keys)[:MOST_NAMED]) for side in sides]
    first, second = (RunSet(label or found.label, tuple(g)) for label, g in zip(labels, groups, strict=True))
    return RunSet(first.label, first.runs, found.unfinished), second


def _varied(runs: Sequence[RunFiles]) -> str:
    """The keys whose values are not the same in all runs."""
    configs = [flat_keys(run.config) for run in runs]
    lines = []
    for key in sorted({key for config in configs for key in config}):
        values = list(dict.fromkeys(repr(config.get(key)) for config in configs))
        if len(values) > 1:
            lines.append(f"  {key}: {listed(values)}")
    return "\n".join(lines[:MOST_NAMED]) or "  nothing in config.yaml: their datasets differ"
