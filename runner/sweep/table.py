"""The jobs of a sweep as lines of text, while they run and at their end."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from runner.job import JobState
from runner.sweep.folder import Sweep
from runner.sweep.plan import PlannedJob

MOST_LINES = 24
MOST_CAUSE = 160
_STYLES = {"finished": "green", "failed": "red", "killed": "yellow", "running": "cyan", "planned": "dim"}


def cause(state: JobState) -> str:
    """Why a job failed, or what it lacks, on one line."""
    return textwrap.shorten((state.error or "").replace("\n", "; "), MOST_CAUSE, placeholder=" ...")


def short_key(key: str) -> str:
    """A key's last part, which is what has room over a column."""
    return key.lstrip("+").rpartition(".")[2]


def repeat_text(planned: PlannedJob) -> str:
    """The repeat's number; warm-ups are marked."""
    return f"warm-up {planned.repeat}" if planned.warmup else str(planned.repeat)


def named(planned: PlannedJob) -> str:
    """What a job runs: the variant, and which repeat where there are several."""
    counted = planned.warmup or planned.repeat > 1
    return planned.variant.label + (f", {'' if planned.warmup else 'repeat '}{repeat_text(planned)}" if counted else "")


def job_line(planned: PlannedJob, jobs: int, state: JobState) -> str:
    """What is said of a job that begins or ends."""
    what = f"job {planned.number}/{jobs} {state.standing}: {named(planned)}"
    if state.error is not None:
        return f"{what}: {cause(state)}"
    if state.standing == "running" or state.started_at is None or state.ended_at is None:
        return what
    return f"{what} ({state.ended_at - state.started_at:.1f} s)"


def job_table(sweep: Sweep, lines: Sequence[tuple[PlannedJob, JobState]], rows: Mapping[int, int], now: float) -> Table:
    """All jobs, or those around the ones that run: failed ones are always shown."""
    counts = {name: sum(state.standing == name for _, state in lines) for name in _STYLES}
    title = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    table = Table(title=f"{sweep.name}: {len(lines)} jobs, {title}", title_justify="left")
    keys = list(dict.fromkeys(key for planned, _ in lines for key in planned.variant.settings))
    for name in ("job", *map(short_key, keys), "repeat", "state", "rows", "s", "cause"):
        table.add_column(name, justify="right" if name in ("job", "rows", "s") else "left", overflow="fold")
    for planned, state in _shown(lines):
        end = state.ended_at if state.standing != "running" else now
        seconds = "" if state.started_at is None or end is None else f"{end - state.started_at:.0f}"
        settings = [planned.variant.settings.get(key, "") for key in keys]
        standing = Text(state.standing, style=_STYLES[state.standing])
        count = str(rows.get(planned.number, ""))
        table.add_row(
            str(planned.number), *settings, repeat_text(planned), standing, count, seconds, Text(cause(state))
        )  # fmt: skip
    return table


def _shown(lines: Sequence[tuple[PlannedJob, JobState]]) -> list[tuple[PlannedJob, JobState]]:
    """As many as fit: failures and running jobs first, then the latest to end and the next to begin."""
    if len(lines) <= MOST_LINES:
        return list(lines)
    begun = max((n for n, (_, state) in enumerate(lines) if state.standing != "planned"), default=0)
    rank = {"failed": 0, "running": 0, "killed": 0, "finished": 1, "planned": 1}
    order = sorted(range(len(lines)), key=lambda n: (rank[lines[n][1].standing], abs(n - begun)))
    return [lines[n] for n in sorted(order[:MOST_LINES])]
