"""``runner replay``: arguments, the steps in their order, and the exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from runner.compare.command import OUTPUTS_DIFFER, WORSE
from runner.compare.outputs import OutputComparison, compare_outputs
from runner.compare.show import outputs_text
from runner.compare.work import Contrast, contrasts, environment_facts
from runner.errors import ConfigError, RunFailedError, RunnerError
from runner.manifest import environment, git_state
from runner.measure.definitions import find
from runner.replay.original import Original, enter_folder, read_original
from runner.replay.verify import Check, verify_inputs, verify_outputs
from runner.report import build_report
from runner.report.format import figure, unit_label
from runner.report.run_files import REPLAY_RESULT as RESULT
from runner.report.run_files import ReportError, RunFiles, read_run
from runner.report.verdict import judge

VERDICT_DIFFERS = WORSE
INPUTS_DIFFER = 5
FIGURES = ("output_tokens_per_s", "total_tokens_per_s", "ttft_ms/p50", "e2e_ms/p50")
USAGE = """runner replay PATH [--check] [--anyway] [--into FOLDER]
PATH: a finished run's folder.
--check   verify digests and environment, run nothing
--anyway  run although dataset, model or chat template are not what they were
--into    where the new run's folder goes; otherwise `replays` in the run's output root"""
CODES = (
    "exit codes: 0 outputs and verdict are the same, 3 the outputs are the same and the verdict is another, 4 outputs "
    "differ,\n5 dataset, model or chat template are not what they were (nothing was run), 1 the run failed, 2 wrong use"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"runner replay: {message}\nusage: {USAGE}")


@dataclass(frozen=True)
class Outcome:
    """What came of a replay."""

    run_dir: Path
    outputs: OutputComparison | None
    verdicts: tuple[str, str]
    requirements: tuple[list[str], list[str]]

    @property
    def exit_code(self) -> int:
        """0, 3 or 4. Outputs that cannot be compared count as different."""
        if self.outputs is None or not self.outputs.same:
            return OUTPUTS_DIFFER
        same = self.verdicts[0] == self.verdicts[1] and self.requirements[0] == self.requirements[1]
        return 0 if same else VERDICT_DIFFERS


def run_replay(words: Sequence[str]) -> int:
    """Verify, run again, compare and print.

    Returns:
        0: outputs and verdict are the same; 3: another verdict; 4: outputs differ; 5: inputs differ, nothing was run.

    Raises:
        ConfigError: the arguments are wrong, or what they name is no finished run.
        RunFailedError: the new run did not come to its end.
    """
    options = _options(words)
    if options is None:
        print(f"usage: {USAGE}\n{CODES}")
        return 0
    original = read_original(Path(options.path), None if options.into is None else Path(options.into))
    print(f"replaying {original.run_dir}")
    moved = enter_folder(original)
    if moved:
        print(moved)
    differing = _environment(original)
    print(_listed("Environment that differs:", differing) if differing else "Environment: the same.")
    inputs, own = verify_inputs(original), verify_outputs(original)
    print("\n".join(line for check in (*inputs, own) for line in _check(check)), flush=True)
    wrong = [check.what for check in inputs if not check.same]
    if wrong and not options.anyway:
        print(f"NOT RUN: {' and '.join(wrong)} changed; --anyway runs it all the same.")
        return INPUTS_DIFFER
    if options.check:
        return INPUTS_DIFFER if wrong else 0
    outcome = _outcome(original, _run(original))
    print("\n" + "\n".join(_lines(original, outcome)))
    _write(original, outcome, differing, inputs)
    return outcome.exit_code


def _options(words: Sequence[str]) -> argparse.Namespace | None:
    """The options, or ``None`` if help was asked for."""
    parser = _Parser(prog="runner replay", add_help=False, allow_abbrev=False)
    parser.add_argument("path", nargs="?")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--anyway", action="store_true")
    parser.add_argument("--into", default=None)
    parser.add_argument("-h", "--help", action="store_true")
    options = parser.parse_args(list(words))
    if options.help:
        return None
    if options.path is None:
        parser.error("the run's folder is missing")
    return options


def _environment(original: Original) -> list[Contrast]:
    now = {"environment": environment(), "git": git_state(Path.cwd())}
    return list(contrasts(environment_facts(original.manifest), environment_facts(now)))


def _listed(title: str, differing: Sequence[Contrast]) -> str:
    return "\n".join([title, *(f"  {one.name}: {one.a} then, {one.b} now" for one in differing)])


def _check(check: Check) -> Iterator[str]:
    yield f"{check.what}: {'the same' if check.same else 'NOT THE SAME'}{f' ({check.note})' if check.note else ''}"
    yield from (f"  {finding}" for finding in check.findings)


def _run(original: Original) -> Path:
    """The new run's folder, also where it came to its end and failed there, as the original may have."""
    from runner.run import run

    try:
        return run(original.config, original.resolved, original.command())
    except RunnerError as error:
        if error.run_dir is None or not (error.run_dir / "manifest.json").is_file():
            raise
        print(f"the run ended with: {error}")
        return error.run_dir


def _outcome(original: Original, run_dir: Path) -> Outcome:
    try:
        again = read_run(run_dir)
        outputs = compare_outputs(original.run_dir, run_dir)
    except (ReportError, ValueError, OSError) as error:
        raise RunFailedError(f"the replay cannot be compared: {error}") from None
    sides = (original.files, again)
    first, second = (judge(side).word for side in sides)
    before, now = (_requirements(side) for side in sides)
    return Outcome(run_dir, outputs, (first, second), (before, now))


def _requirements(run: RunFiles) -> list[str]:
    return [f"{one['text']}: {'met' if one['met'] else 'NOT MET'}" for one in run.metrics.get("requirements") or ()]


def _lines(original: Original, outcome: Outcome) -> Iterator[str]:
    yield from outputs_text(outcome.outputs)
    first, second = outcome.verdicts
    yield f"Verdict: {second}" + (", as before." if first == second else f"; it was {first}.")
    for before, now in zip(*outcome.requirements, strict=False):
        if before != now:
            yield f"Requirement {now}; it was: {before}"
    yield from _figures(original.files, read_run(outcome.run_dir))
    words = {0: "REPRODUCED", VERDICT_DIFFERS: "NOT REPRODUCED: another verdict", OUTPUTS_DIFFER: "NOT REPRODUCED"}
    yield f"{words[outcome.exit_code]}  ({original.run_dir.name} in {outcome.run_dir})"


def _figures(before: RunFiles, now: RunFiles) -> Iterator[str]:
    """Timings then and now. One run each says nothing of chance, so there is no verdict here."""
    for name in FIGURES:
        first, second = before.flat.get(name), now.flat.get(name)
        if first and second:
            metric = find(name)
            statistic = f" {name.rpartition('/')[2]}" if metric.distribution else ""
            unit = f" {unit_label(metric.unit)}" if unit_label(metric.unit) else ""
            then, again = (figure(value, metric.unit) for value in (first, second))
            yield f"{metric.title}{statistic}: {then}{unit} then, {again} now ({(second - first) / first:+.1%})"


def _write(original: Original, outcome: Outcome, differing: Sequence[Contrast], inputs: Sequence[Check]) -> None:
    """Leave the result in the new run's folder, for programs and in its report."""
    content: dict[str, Any] = {
        "schema": 1,
        "of": str(original.run_dir),
        "exit_code": outcome.exit_code,
        "reproduced": outcome.exit_code == 0,
        "verdict": {"then": outcome.verdicts[0], "now": outcome.verdicts[1]},
        "outputs": None if outcome.outputs is None else {**asdict(outcome.outputs), "same": outcome.outputs.same},
        "environment": [asdict(one) for one in differing],
        "inputs": [{**asdict(check), "same": check.same} for check in inputs],
    }
    try:
        (outcome.run_dir / RESULT).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        build_report(outcome.run_dir)  # again, with what came of it
    except OSError as error:
        raise RunFailedError(f"{outcome.run_dir / RESULT} cannot be written: {error}") from None
