"""The end of a sweep, or of one process's part in it: table, report, and what the user sees of them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from runner.report.format import number
from runner.report.sweep import build_sweep_report, summarised
from runner.sweep.folder import MANIFEST, Sweep
from runner.sweep.objective import objective_of, outcome
from runner.sweep.results import VariantResult, job_results, variant_results, write_table
from runner.sweep.table import cause, repeat_text, short_key

Points = list[tuple[str, int, float]]
SHOWN = {
    "output_tokens_per_s": "tokens/s",
    "requests_per_s": "rows/s",
    "ttft_ms/p50": "TTFT p50, ms",
    "tpot_ms/p50": "TPOT p50, ms",
    "e2e_ms/p50": "E2E p50, ms",
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
    if any(variant.repeats for variant in variants):
        console.print(_table(sweep, variants))
    if sweep.search is not None:
        goal = objective_of(sweep.search)
        console.print(f"search   {goal.text}", soft_wrap=True, highlight=False, markup=False)
        console.print(f"best     {outcome(goal, variants)}", soft_wrap=True, highlight=False, markup=False)
    for result in results:
        if result.state.error is not None:
            repeat = repeat_text(result.planned)
            what = "failed" if result.state.standing == "failed" else "not met"
            line = f"{what}: job {result.planned.number} ({result.planned.variant.label}, {repeat}): "
            console.print(line + cause(result.state), soft_wrap=True, highlight=False, markup=False)
    console.print(f"\nsweep    {sweep.path}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"report   {sweep.path / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
    console.print(tracking, soft_wrap=True, highlight=False, markup=False)


def _table(sweep: Sweep, variants: list[VariantResult]) -> Table:
    table = Table(title=f"{sweep.name}: {len(variants)} variants, mean ± standard deviation", title_justify="left")
    keys = list(dict.fromkeys(key for variant in variants for key in variant.variant.settings))
    shown = [name for name in SHOWN if any(variant.mean(name) is not None for variant in variants)]
    for key in keys:
        table.add_column(short_key(key), overflow="fold")
    table.add_column("runs", justify="right")
    for name in shown:
        table.add_column(SHOWN[name], justify="right")
    for variant in variants:
        settings = [variant.variant.settings.get(key, "") for key in keys]
        table.add_row(*settings, str(len(variant.repeats)), *(_spread(variant, name) for name in shown))
    return table


def _spread(variant: VariantResult, name: str) -> str:
    """Mean, and the standard deviation where there is one."""
    found = variant.spread(name)
    return number(found.mean) if found.deviation is None else f"{number(found.mean)} ± {number(found.deviation)}"
