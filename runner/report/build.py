"""report.md and report.html from a run folder's files alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from runner.manifest import dataset_name
from runner.measure.definitions import METRICS, STATISTICS, Group, Metric, find
from runner.measure.latency import LOAD_SPANS, SPANS
from runner.quality.requirements import describe
from runner.report import charts, roofline
from runner.report.format import figure, number, share, shortened, unit_label, utc
from runner.report.run_files import RunFiles, read_run
from runner.report.verdict import judge
from runner.tracking.store import mlflow_command

WIDE, HALF, NARROW = 1000, 490, 360  # user units: an SVG is about as wide as its column, so that its text is too
HEADLINES = ("output_tokens_per_s", "requests_per_s", "ttft_ms/p50", "tpot_ms/p50", "e2e_ms/p50", "rows/ok")
POOLING_HEADLINES = ("total_tokens_per_s", "requests_per_s", "e2e_ms/p50", "e2e_ms/p90", "peak_memory_mib", "rows/ok")
MOST_TEXT = 1200
MOST_INLINE = 160  # characters of a kept column that is shown without unfolding it
OTHER_GROUPS: tuple[tuple[Group, str], ...] = (
    ("throughput", "Throughput"),
    ("load", "Load"),
    ("roofline", "Distance to the roofline"),
    ("energy", "Energy"),
    ("rows", "Rows and tokens"),
    ("engine", "Engine and memory"),
    ("phases", "Phases"),
)
ROW_FIGURES = ("prompt_tokens", "cached_tokens", "output_tokens")


def build_report(run_dir: Path) -> list[Path]:
    """Write report.md and report.html into the run folder and give their paths.

    Raises:
        ReportError: the folder holds no finished run, or one of its files is damaged.
    """
    run = read_run(run_dir.absolute())  # the commands that it shows work from everywhere
    context = _context(run)
    written = []
    for name in ("report.md", "report.html"):
        path = run_dir / name
        path.write_text(report_environment().get_template(f"{name}.j2").render(context), encoding="utf-8")
        written.append(path)
    return written


def report_environment() -> Environment:
    """Templates with the filters for figures; a name that is not there is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "figure": figure,
        "share": share,
        "unit": unit_label,
        "number": number,
        "utc": utc,
        "cell": _cell,
        "code": _code,
        "line": _line,
    }
    return environment


def _cell(value: object) -> str:
    """Text that stays in one Markdown table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _line(text: object) -> str:
    """Lines of text as one."""
    return "; ".join(str(text).splitlines())


def _code(text: str) -> Markup:
    """Plain text in which backticks mark code, as HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _context(run: RunFiles) -> dict[str, Any]:
    flat = run.flat
    manifest = run.manifest
    return {
        "run": run,
        "manifest": manifest,
        "title": manifest.get("recipe") or run.config.get("name") or run.run_dir.name,
        "verdict": judge(run),
        "flat": flat,
        "headlines": _headlines(flat),
        "latency": [metric for metric in METRICS if metric.distribution and f"{metric.name}/mean" in flat],
        "statistics": STATISTICS,
        "samples": run.metrics.get("samples") or {},
        "groups": list(_groups(flat)),
        "charts": list(_charts(run)),
        "trials": (run.metrics.get("load") or {}).get("trials") or [],
        "quality": list(_quality(run)),
        "replayed": _replayed(run.replay),
        "requirements": [(describe(one), one["met"]) for one in run.metrics.get("requirements") or ()],
        "roofline": roofline.table(run.metrics.get("roofline")),
        "roofline_charts": list(_roofline(run.metrics.get("roofline"))),
        "outputs": [_row(record) for record in run.outputs],
        "errors": [_row(record) for record in run.errors],
        "facts": _facts(run),
        "environment": dict(_environment_lines(manifest.get("environment") or {}, manifest.get("git"))),
        "digests": dict(_digests(manifest)) | _schedule_digest(run),
        "sessions": run.metrics.get("sessions") or [],
        "again": manifest.get("command_line") or shlex.join(manifest.get("command") or []),
        "replay": shlex.join(["runner", "replay", str(run.run_dir)]),
        "rebuild": shlex.join(["runner", "report", str(run.run_dir)]),
        "mlflow": _mlflow(run.tracking),
    }


def _headlines(flat: Mapping[str, Any]) -> list[tuple[str, Metric, str]]:
    """Name, definition and statistic of the figures at the top; a run without output tokens shows other ones."""
    by_name = {metric.name: metric for metric in METRICS}
    chosen = HEADLINES if flat.get("tokens/output") else POOLING_HEADLINES
    found = []
    for name in chosen:
        base, _, statistic = name.rpartition("/")
        is_statistic = base in by_name and by_name[base].distribution
        found.append((name, by_name[base if is_statistic else name], statistic if is_statistic else ""))
    return found


def _groups(flat: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str, Metric]]]]:
    """Per group its single figures: flat name, title and definition. Start-up phases follow their total."""
    for group, title in OTHER_GROUPS:
        lines = []
        for metric in (m for m in METRICS if m.group == group and m.name in flat):
            lines.append((metric.name, metric.title, metric))
            parts = [n for n in flat if n.startswith(f"{metric.name}/")] if metric.name == "startup_s" else []
            lines += [(name, f"{metric.title}: {name.rpartition('/')[2]}", metric) for name in parts]
        if lines:
            yield title, lines


def _quality(run: RunFiles) -> Iterator[tuple[str, str, Metric, Mapping[str, Any]]]:
    """Each figure of the outputs' quality: its flat name, title, definition, and how many rows it rests on."""
    for about in run.metrics.get("quality") or ():
        for name in about["names"]:
            metric = find(name)
            prefix = f"{name.rpartition('/')[0]}: " if "/" in name else ""
            yield name, prefix + metric.title, metric, about


def _charts(run: RunFiles) -> Iterator[dict[str, Any]]:
    """Each plot in a wide and a narrow drawing; the page shows the one that fits, so that text keeps its size."""
    timeline, mean = run.metrics.get("timeline") or {}, run.flat.get("output_tokens_per_s")
    legend = [("s1", "running"), ("s2", "waiting")]
    since = "seconds since the engine was ready"
    yield from _chart("Output tokens/s", since, WIDE, lambda w: charts.throughput(timeline, mean, w))
    yield from _chart("Running and waiting requests", since, WIDE, lambda w: charts.requests(timeline, w), legend)
    if run.flat.get("kv_use/peak") is not None:  # an engine without a KV cache has no curve of it
        yield from _chart("KV cache in use", since, WIDE, lambda w: charts.kv_use(timeline, w))
    for metric in (m for m in METRICS if m.distribution and (m.name in SPANS or m.name in LOAD_SPANS)):
        if f"{metric.name}/mean" in run.flat:
            yield from _histogram(run, metric)


def _roofline(detail: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    if detail is not None:
        title = f"{roofline.unit_of(detail)[1]} over arithmetic intensity"
        note = "a dot's area is its share of the seconds"
        yield from _chart(title, note, WIDE, lambda w: roofline.chart(detail, w), roofline.LEGEND)


def _histogram(run: RunFiles, metric: Metric) -> Iterator[dict[str, Any]]:
    """One time's distribution. Its samples are read here and gone afterwards."""
    samples = run.times(metric.name)
    marks = {p: run.flat.get(f"{metric.name}/{p}") for p in ("p50", "p90", "p99")}
    beyond = charts.beyond_axis(samples)
    note = f"{number(beyond)} of {number(int(samples.size))} rows lie beyond the axis" if beyond else ""
    title = f"{metric.title} per row"
    yield from _chart(title, note, HALF, lambda w: charts.histogram(metric.title, samples, marks, w))


def _chart(
    title: str, note: str, width: int, draw: Callable[[float], Markup | None], legend: Sequence[tuple[str, str]] = ()
) -> Iterator[dict[str, Any]]:
    """A plot for the page, or nothing where there is nothing to see."""
    wide = draw(width)
    if wide is not None:
        half = width == HALF
        yield {"title": title, "note": note, "legend": legend, "half": half, "wide": wide, "narrow": draw(NARROW)}


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    """One output or error row for display: its id, its text, its figures, and the columns it kept."""
    hidden = {"id", "output", "embedding", "error", "finish_reason", "token_ids", "times", *ROW_FIGURES}
    figures = [f"{number(record[n])} {n.replace('_', ' ')}" for n in ROW_FIGURES if isinstance(record.get(n), int)]
    reason = record.get("finish_reason")
    kept = {k: v for k, v in record.items() if k not in hidden and isinstance(v, str) and v}
    return {
        "id": str(record.get("id", "")),
        "text": shortened(_text(record), MOST_TEXT),
        "figures": [*figures, *([f"finish: {reason}"] if reason else [])],
        "kept": {name: text for name, text in kept.items() if len(text) <= MOST_INLINE},
        "folded": {name: shortened(text, MOST_TEXT) for name, text in kept.items() if len(text) > MOST_INLINE},
        "error": str(record.get("error") or ""),
    }


def _text(record: Mapping[str, Any]) -> str:
    """The output as text: of a vector its first values and its length."""
    output = record.get("output", record.get("embedding"))
    if isinstance(output, list) and output and isinstance(output[0], float):
        return f"[{', '.join(f'{value:.4f}' for value in output[:8])}, …] ({len(output)} values)"
    if isinstance(output, Sequence) and not isinstance(output, str):
        return "\n\n".join(str(part) for part in output)
    return "" if output is None else str(output)


def _replayed(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a replay found, in words."""
    if result is None:
        return None
    outputs, verdict = result["outputs"], result["verdict"]
    lines = [f"It repeats {result['of']}."]
    if outputs is None:
        lines.append("Outputs could not be compared.")
    elif outputs["same"]:
        lines.append(f"Outputs are identical in all {number(outputs['rows'])} rows.")
    else:
        lines.append(f"Outputs differ in {number(outputs['flips'])} of {number(outputs['rows'])} rows.")
    same = verdict["then"] == verdict["now"]
    lines.append("The verdict is the same." if same else f"The verdict was {verdict['then']}.")
    lines += [f"{check['what']}: {finding}." for check in result["inputs"] for finding in check["findings"]]
    lines += [f"{one['name']}: {one['a']} then, {one['b']} now." for one in result["environment"]]
    return {"reproduced": result["reproduced"], "lines": lines}


def _facts(run: RunFiles) -> dict[str, str]:
    """What stands under the title."""
    model, device = run.config.get("model") or {}, (run.metrics.get("engine") or {}).get("device") or {}
    dataset = run.manifest.get("dataset") or {}
    sessions = run.metrics.get("sessions") or []
    facts = {
        "Run": str(run.manifest.get("run_id") or run.run_dir.name),
        "Model": str(model.get("name") or ""),
        "Dataset": dataset_name(dataset),
        "Device": str(device.get("name") or device.get("device") or device.get("kind") or ""),
        "Started": utc(sessions[0]["started_at"]) if sessions else "",
        "Config hash": str(run.manifest.get("config_hash") or "").removeprefix("sha256:")[:16],
    }
    return {name: value for name, value in facts.items() if value}


def _environment_lines(environment: Mapping[str, Any], git: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    single = {
        "platform": "Platform",
        "python": "Python",
        "cpu": "CPU",
        "cpu_cores": "CPU cores",
        "memory_gib": "Memory",
    }
    for key, title in single.items():
        if environment.get(key) is not None:
            yield title, f"{environment[key]}{' GiB' if key == 'memory_gib' else ''}"
    for index, gpu in enumerate(environment.get("gpus") or []):
        yield f"GPU {index}", ", ".join(f"{name} {value}" if name != "name" else value for name, value in gpu.items())
    packages = environment.get("packages") or {}
    if packages:
        yield "Packages", ", ".join(f"{name} {version}" for name, version in packages.items())
    variables = environment.get("variables") or {}
    if variables:
        yield "Variables", ", ".join(f"{name}={value}" for name, value in variables.items())
    if git:
        yield (
            "Git commit",
            f"{git.get('commit')}{' with changes ' + str(git['diff_digest']) if git.get('dirty') else ''}",
        )


def _digests(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every digest that the manifest holds, by what it is of."""
    yield "configuration", str(manifest.get("config_hash") or "")
    for part in ("dataset", "model"):
        for key, value in (manifest.get(part) or {}).items():
            if isinstance(value, str) and value.startswith("sha256:"):
                yield part if key == "digest" else f"{part}: {key.replace('_', ' ')}", value
            elif key == "files":
                yield from ((f"{part}: {name}", digest) for name, digest in value.items())
    yield from (manifest.get("outputs") or {}).items()


def _schedule_digest(run: RunFiles) -> dict[str, str]:
    """Of a load's arrivals."""
    schedule = (run.metrics.get("load") or {}).get("schedule")
    return {} if schedule is None else {"arrivals": schedule}


def _mlflow(tracking: Mapping[str, Any] | None) -> dict[str, str] | None:
    if tracking is None or "tracking_uri" not in tracking:
        return None
    return {str(k): str(v) for k, v in tracking.items()} | {"command": mlflow_command(str(tracking["tracking_uri"]))}
