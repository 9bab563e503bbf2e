"""The end of a sweep, or of one process's part in it: table, report, and what the user sees of them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runner.report.format import number
from runner.report.sweep import build_sweep_report, summarised
from runner.sweep.folder import MANIFEST, Sweep
from runner.sweep.objective import objective_of, outcome
from runner.sweep.results import VariantResult, job_results, variant_results, write_table
from runner.sweep.table import cause, named, short_key

FILE_WIDTH = 120  # characters
MOST_SETTING, LEAST_SETTING = 32, 6
MOST_COLUMNS = 3  # of settings; more of them stand in one
Points = list[tuple[str, int, float]]
SHOWN = {
    "output_tokens_per_s": "tokens/s",
    "requests_per_s": "rows/s",
    "ttft_ms/p50": "TTFT\np50, ms",
    "tpot_ms/p50": "TPOT\np50, ms",
    "e2e_ms/p50": "E2E\np50, ms",
}


def finish_sweep(sweep: Sweep) -> tuple[list[Path], Points]:
    """Write table and report from the run folders; gives back the parent's artifacts, and mean and standard deviation
    of each variant as points whose step is the variant's number.

    Raises:
        OSError: the disk is full.
    """
    results = job_results(sweep)
    files = [sweep.path / MANIFEST, write_table(sweep, results), *build_sweep_report(sweep.path)]
    points: Points = []
    variants = variant_results(results)
    names = summarised(variants)
    for variant in variants:
        for name in names:
            found = variant.spread(name)
            values = {"mean": found.mean, "sd": found.deviation, "low": found.low, "high": found.high}
            points += [
                (f"{name}/{k}", variant.variant.number, value) for k, value in values.items() if value is not None
            ]
    return files, points


def print_sweep(sweep: Sweep, tracking: str) -> None:
    """The variants' figures, all failures, and where everything is."""
    results = job_results(sweep)
    variants = variant_results(results)
    console = Console()
    if not console.is_terminal:  # a file has room for all columns
        console = Console(width=max(console.width, FILE_WIDTH))
    if any(variant.repeats for variant in variants):
        console.print(_table(sweep, variants))
    if sweep.search is not None:
        goal = objective_of(sweep.search)
        console.print(f"search   {goal.text}", soft_wrap=True, highlight=False, markup=False)
        console.print(f"best     {outcome(goal, variants)}", soft_wrap=True, highlight=False, markup=False)
    for result in results:
        if result.state.error is not None:
            what = "failed" if result.state.standing == "failed" else "not met"
            line = f"{what}: job {result.planned.number} ({named(result.planned)}): "
            console.print(line + cause(result.state), soft_wrap=True, highlight=False, markup=False)
    console.print(f"\nsweep    {sweep.path}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"report   {sweep.path / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
    console.print(tracking, soft_wrap=True, highlight=False, markup=False)


def _table(sweep: Sweep, variants: list[VariantResult]) -> Table:
    table = Table(title=f"{sweep.name}: {len(variants)} variants, mean ± standard deviation", title_justify="left")
    keys = list(dict.fromkeys(key for variant in variants for key in variant.variant.settings))
    shown = [name for name in SHOWN if any(variant.mean(name) is not None for variant in variants)]
    apart = len(keys) <= MOST_COLUMNS
    for name in map(short_key, keys) if apart else ["variant"]:
        table.add_column(name, overflow="fold", min_width=LEAST_SETTING)
    table.add_column("runs", justify="right", min_width=4)
    for name in shown:
        table.add_column(SHOWN[name], justify="right", overflow="fold", min_width=8)
    for variant in variants:
        own = {key: _short(variant.variant.settings.get(key, "")) for key in keys}
        line = ", ".join(f"{short_key(key)}={value}" for key, value in own.items() if value)
        settings = list(own.values()) if apart else [line]
        table.add_row(*map(escape, settings), str(len(variant.repeats)), *(_spread(variant, name) for name in shown))
    return table


def _short(value: str) -> str:
    """A setting that leaves room for the figures; whole ones are in the report."""
    line = value.replace("\n", "\\n")
    return line if len(line) <= MOST_SETTING else line[: MOST_SETTING - 1] + "…"


def _spread(variant: VariantResult, name: str) -> str:
    """Mean, and the standard deviation where there is one."""
    found = variant.spread(name)
    return number(found.mean) if found.deviation is None else f"{number(found.mean)} ± {number(found.deviation)}"
