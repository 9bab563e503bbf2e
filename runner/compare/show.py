"""A comparison as text for a terminal, and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from runner.compare.comparison import Comparison, overall
from runner.compare.outputs import Flip, OutputComparison
from runner.compare.timings import Line
from runner.compare.work import Contrast
from runner.measure.definitions import Metric, find
from runner.measure.differences import ROUNDING
from runner.measure.repeats import Spread
from runner.report.format import figure, number, unit_label

HEADER = ("", "A", "B", "B against A", "95% interval", "verdict")
MOST_CONTRASTS = 12
MOST_NAMED = 6  # metrics in a sentence


def as_text(found: Comparison) -> str:
    """The whole comparison, a line each for what differs, a table of metrics, and the outputs."""
    parts = [_sets(found), *_work(found), _table(found), _conclusion(found), *_outputs(found)]
    return "\n\n".join(part for part in parts if part)


def as_data(found: Comparison) -> dict[str, Any]:
    """The same for programs: JSON types only."""
    return {
        "schema": 1,
        "a": [str(run.run_dir) for run in found.a.runs],
        "b": [str(run.run_dir) for run in found.b.runs],
        "timings": overall(found.timings),
        "quality": overall(found.quality) if found.quality else None,
        "headline": found.headline,
        "paired": found.as_pairs,
        "margin": found.margin,
        "same_work": found.work.same,
        "work": [asdict(one) for one in found.work.work],
        "settings": [asdict(one) for one in found.work.settings],
        "environment": [asdict(one) for one in found.work.environment],
        "notes": list(found.work.notes),
        "metrics": [_line_data(line) for line in found.lines],
        "outputs": None if found.outputs is None else {**asdict(found.outputs), "same": found.outputs.same},
        "unstable_rows": {"a": found.unstable[0], "b": found.unstable[1]},
    }


def _line_data(line: Line) -> dict[str, Any]:
    relative = {}
    if line.difference is not None:
        names = ("value", "low", "high")
        relative = {f"{name}_share": line.share(getattr(line.difference, name)) for name in names}
    data = asdict(line)
    if line.difference is not None:
        data["difference"] |= relative
    return data


def _sets(found: Comparison) -> str:
    lines = [f"{name}: {one.label} ({_runs(len(one.runs))})" for name, one in (("A", found.a), ("B", found.b))]
    return "\n".join(lines)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} repeats"


def _work(found: Comparison) -> Iterator[str]:
    work = found.work
    if work.same:
        yield "Same work: recipe, model, data, prompts and sampling are the same in both."
    else:
        yield _listed("NOT THE SAME WORK: what is compared below differs in more than its settings.", work.work)
    yield _listed("Settings that differ:", work.settings)
    yield _listed("Environment that differs:", work.environment)
    yield "\n".join(f"Note: {note}" for note in work.notes)


def _listed(title: str, contrasts: Sequence[Contrast]) -> str:
    if not contrasts:
        return ""
    lines = [f"  {one.name}: {one.a} in A, {one.b} in B" for one in contrasts[:MOST_CONTRASTS]]
    more = len(contrasts) - MOST_CONTRASTS
    return "\n".join([title, *lines, *([f"  and {more} more"] if more > 0 else [])])


def _table(found: Comparison) -> str:
    reasons = list(dict.fromkeys(line.why for line in found.lines if line.why))
    rows = [HEADER, *(_cells(line, found, reasons) for line in found.lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    text = []
    for row in rows:
        first, *middle, last = row
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(middle, widths[1:-1], strict=True)), last]
        text.append("  ".join(cells).rstrip())
    return "\n".join([*text, *(f"  [{number}] {reason}" for number, reason in enumerate(reasons, start=1))])


def _cells(line: Line, found: Comparison, reasons: Sequence[str]) -> tuple[str, ...]:
    metric = find(line.name)
    statistic = line.name.rpartition("/")[2] if metric.distribution else ""
    unit = unit_label(metric.unit)
    title = f"{metric.title}{' ' + statistic if statistic else ''}{', ' + unit if unit else ''}"
    if metric.group == "quality":
        title = f"{line.name} ({line.a.count:,} rows)"
    change, interval = "", ""
    if line.difference is not None:
        interval = f"{_signed(line.difference.low, line)} to {_signed(line.difference.high, line)}"
    if line.a.mean is not None and line.b.mean is not None:
        change = _signed(line.b.mean - line.a.mean, line)
    mark = " *" if line.name == found.headline else ""
    why = f" [{reasons.index(line.why) + 1}]" if line.why else ""
    means = (_mean(line.a, metric), _mean(line.b, metric))
    return (title + mark, *means, change, interval, line.verdict + why)


def _mean(over: Spread, metric: Metric) -> str:
    """Mean and, over repeats, standard deviation; that of rows says nothing of the mean."""
    mean = figure(over.mean, metric.unit)
    if over.deviation is None or over.mean is None or metric.group == "quality":
        return mean
    rounding = over.deviation <= ROUNDING * abs(over.mean)
    return f"{mean} ± {'0' if rounding else number(over.deviation)}"


def _signed(value: float, line: Line) -> str:
    """A difference in per cent of A's mean, or where that is 0 in the metric's unit."""
    share = line.share(value)
    return f"{value:+.3g}" if share is None else f"{share:+.1%}"


def _conclusion(found: Comparison) -> str:
    fewest = min(len(found.a.runs), len(found.b.runs))
    lines = [_summary("Timings", found.timings, f"{_runs(fewest)}; at least 3 repeats of each are needed")]
    if overall(found.timings) == "no difference":
        lines[0] += _excluded(found)
    if found.quality:
        lines.append(_summary("Quality", found.quality, "too few rows were judged in both"))
    lines = [f"{line}." for line in lines]
    if any(line.difference for line in found.timings):
        pairs = "in pairs (interleaved repeats, paired t-test)" if found.as_pairs else "as two sets (Welch's t-test)"
        lines.append(f"* headline. Timings are compared {pairs}.")
    if found.quality:
        lines.append("Quality is compared row by row (paired t-test), each row's mean over the repeats.")
    if any(line.difference for line in found.lines):
        lines.append(
            f"Verdicts are corrected for the number of lines (weighted Holm, 5% over the table), intervals are each "
            f"line's own.\nsame: the interval lies within ±{found.margin:.0%} of A's mean."
        )
    return "\n".join(lines)


def _summary(what: str, lines: Sequence[Line], too_few: str) -> str:
    differing = [line for line in lines if line.verdict in ("better", "worse", "different")]
    more = f" and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
    names = ", ".join(f"{line.name} {line.verdict}" for line in differing[:MOST_NAMED]) + more
    words = {
        "not enough data": f"not enough data ({too_few})",
        "no difference": "no difference found",
        "mixed": f"mixed ({names})",
    }
    word = overall(lines)
    return f"{what}: {words.get(word) or f'B is {word} ({names})'}"


def _excluded(found: Comparison) -> str:
    """How large a difference of the headline may still be."""
    line = next((line for line in found.lines if line.name == found.headline), None)
    if line is None or line.difference is None or not line.a.mean:
        return ""
    widest = max(abs(line.difference.low), abs(line.difference.high)) / abs(line.a.mean)
    return f" ({find(line.name).title.lower()}: at most {widest:.1%} either way)"


def _outputs(found: Comparison) -> Iterator[str]:
    first, *shown = outputs_text(found.outputs)
    yield "\n".join([first, *(_unstable(found) if found.outputs is not None else ())])
    yield from shown


def outputs_text(outputs: OutputComparison | None) -> Iterator[str]:
    """How many outputs differ, then the first ones that do."""
    if outputs is None:
        yield "Outputs: not compared, the two have no kind of outputs file in common."
        return
    yield "\n".join([_count(outputs), *_alone(outputs)])
    if outputs.shown:
        yield "\n".join(line for flip in outputs.shown for line in _flip(flip))


def _count(outputs: OutputComparison) -> str:
    if outputs.same:
        text = f"Outputs: identical in all {outputs.rows:,} rows"
    else:
        text = f"Outputs: {outputs.flips:,} of {outputs.rows:,} rows differ"
        text += f", {outputs.reasons:,} in their finish reason" if outputs.reasons else ""
    rows = f"{outputs.prompts:,} row{'s' * (outputs.prompts > 1)}"
    return text + (f"; {rows} had another prompt." if outputs.prompts else ".")


def _alone(outputs: OutputComparison) -> Iterator[str]:
    for name, count, ids in zip("AB", outputs.alone, (outputs.only_a, outputs.only_b), strict=True):
        if count:
            more = ", …" if count > len(ids) else ""
            yield f"  {count:,} row{'s' * (count > 1)} finished in {name} only: {', '.join(ids)}{more}"


def _unstable(found: Comparison) -> Iterator[str]:
    for name, count in zip("AB", found.unstable, strict=True):
        if count:
            yield f"  {name}'s own repeats differ from its first run in up to {count:,} row{'s' * (count > 1)}."
    if not any(found.unstable) and any(count is not None for count in found.unstable):
        yield "  The repeats of each set agree with its first run in every row."


def _flip(flip: Flip) -> Iterator[str]:
    place = [] if flip.character is None else [f"character {flip.character}"]
    if flip.token is not None and flip.token_ids is not None:
        left, right = ("the end" if one is None else str(one) for one in flip.token_ids)
        place.append(f"token {flip.token} ({left} in A, {right} in B)")
    yield f"  {flip.id}: first differs at {', '.join(place)}" if place else f"  {flip.id}:"
    yield f"    A  {flip.a}"
    yield f"    B  {flip.b}"
