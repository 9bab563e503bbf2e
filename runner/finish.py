"""The end of a run: outputs, measurements, manifest, report, and what the user sees of them."""

from __future__ import annotations

import json
import logging
import textwrap
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from engine.stats import EngineStats
from runner import manifest
from runner.config import Config
from runner.errors import RunFailedError
from runner.journal import FILE_NAME, Journal
from runner.measure.session_work import SessionWork
from runner.quality.requirements import check_requirements, describe, parse_requirement
from runner.record_json import from_json
from runner.run_info import RunInfo
from runner.sink import FILE_NAMES, REQUESTS, write_outputs
from runner.sink.atomic import replaced

_log = logging.getLogger(__name__)

SHOWN_OUTPUTS = 3
SHOWN_CHARACTERS = 240


def load_finish(config: Config) -> None:
    """Import what the end of a run needs, so that an installation without it fails before the first row, and what the
    imports take in memory is taken once and not when all rows are done.

    Raises:
        ConfigError: a metric's package is not installed.
    """
    import pyarrow as pa

    import runner.measure.summary
    import runner.report  # noqa: F401

    if config.metrics:
        from runner.quality.judge import open_scorers

        open_scorers(config.metrics)
    pa.array([""])  # the first array made from Python's objects imports pandas, where it is installed


def finish_run(
    info: RunInfo, config: Config, journal: Journal, dataset: dict[str, Any], stats: EngineStats
) -> tuple[dict[str, Any], list[Path]]:
    """Write everything that a finished run leaves; gives back metrics.json's content and the artifacts' files.

    Raises:
        OSError: the disk is full; nothing that was there is lost.
        RunFailedError: the report could not be built; the outputs are complete.
    """
    from runner.measure.requests_file import RequestsFile
    from runner.measure.roofline import ceilings_of
    from runner.measure.summary import summarise

    outputs = write_outputs(journal, config, info.run_dir)
    works = noted_work(journal)
    ceilings = ceilings_of(works, config.measure.roofline)
    requests = RequestsFile(info.run_dir / REQUESTS)
    metrics = summarise(requests, stats, journal.sessions(), works, ceilings, config.load)
    _judge(config, journal, metrics, info.run_dir)
    _write_json(info.run_dir / "metrics.json", metrics)
    names = {path: path.relative_to(info.run_dir).as_posix() for path in outputs}
    content = manifest.build(
        info,
        dataset=dataset,
        model=_model(config, stats, info.run_dir),
        outputs={name: manifest.digest_file(path) for path, name in names.items() if name != REQUESTS},
    )
    _write_json(info.run_dir / "manifest.json", content)
    report = _build_report(info.run_dir)
    small = ("config.yaml", "manifest.json", "metrics.json")
    return metrics, [*(info.run_dir / name for name in small), *report]


def _model(config: Config, stats: EngineStats, run_dir: Path) -> dict[str, Any]:
    """What the manifest says of the model; the digests of its tensors go into a file of their own."""
    from runner.model_digests import TENSORS, chat_template_digest, digest_files, model_files

    about: dict[str, Any] = {"name": config.model.name, "revision": config.model.revision, **stats.numerics}
    try:
        found = digest_files(model_files(config), fresh=False)
    except (OSError, ValueError) as error:  # moved or deleted while the run lasted: outputs are worth more
        _log.warning("the model's files have no digests: %s", error)
        return about
    tensors = {name: one.tensors for name, one in found.items() if one.tensors}
    if tensors:
        _write_json(run_dir / TENSORS, tensors)
    template = chat_template_digest(config)
    about |= {"files": {name: one.digest for name, one in found.items()}} if found else {}
    return about | ({"chat_template": template} if template is not None else {})


def _judge(config: Config, journal: Journal, metrics: dict[str, Any], run_dir: Path) -> None:
    """Add quality and requirements to the metrics, and write the rows' scores.

    Imported here, because ROUGE's library alone takes more than a second.
    """
    if config.metrics:
        from runner.quality.judge import SCORES, judge_outputs

        found = judge_outputs(config.metrics, journal.records(errors=False), run_dir / SCORES)
        metrics["metrics"] |= found["metrics"]
        metrics["notes"] |= found["notes"]
        metrics["quality"] = found["quality"]
    if config.require:
        required = [parse_requirement(text) for text in config.require]
        metrics["requirements"] = check_requirements(required, metrics)


def noted_work(journal: Journal) -> list[SessionWork]:
    """What each session noted of its work at its end; a killed one noted nothing."""
    found = [journal.get(f"work_{session.number}") for session in journal.sessions()]
    return [SessionWork.from_json(data) for data in found if data is not None]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def _build_report(run_dir: Path) -> list[Path]:
    from runner.report import build_report

    try:
        return build_report(run_dir)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk; Jinja's missing template is an OSError too, without a number
        raise RunFailedError(
            f"the outputs are complete, and the report could not be built: {type(error).__name__}: {error}"
        ) from error


def print_summary(info: RunInfo, config: Config, metrics: Mapping[str, Any], tracking: str) -> None:
    """The table of throughput and latency, the first outputs, and where everything is."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    flat = metrics["metrics"]
    table = Table(title=f"{info.recipe}: {flat['rows/ok']} rows, {flat['rows/error']} in error", title_justify="left")
    for column in ("", "mean", "p50", "p90", "p99"):
        table.add_column(column, justify="left" if not column else "right")
    for name, label in _THROUGHPUT.items():
        if name in flat and not (name.startswith("load/") and flat[name] is None):
            table.add_row(label, _figure(flat[name]), "", "", "")
    table.add_section()
    for name, label in _LATENCY.items():
        cells = [_figure(flat.get(f"{name}/{statistic}")) for statistic in ("mean", "p50", "p90", "p99")]
        if any(cells) and (name != "queue_ms" or metrics.get("load")):  # offline it only says how long the data is
            table.add_row(label, *cells)
    _add_quality(table, metrics)
    console.print(table)
    for outcome in metrics.get("requirements", ()):
        line = f"{'met' if outcome['met'] else 'NOT MET'}: {describe(outcome)}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    for line in _first_outputs(info.run_dir / FILE_NAME):
        console.print(line, markup=False, highlight=False)
    names = ", ".join(FILE_NAMES[sink.kind] for sink in config.sinks)
    # soft_wrap: paths and commands are to be copied whole
    console.print(f"\noutputs  {info.run_dir} ({names})", soft_wrap=True, highlight=False, markup=False)
    console.print(f"report   {info.run_dir / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
    console.print(tracking, soft_wrap=True, highlight=False, markup=False)


_THROUGHPUT = {
    "output_tokens_per_s": "output tokens/s",
    "total_tokens_per_s": "total tokens/s",
    "requests_per_s": "rows/s",
    "load/asked_per_s": "requests/s asked for",
    "load/sent_per_s": "requests/s sent",
    "load/goodput_per_s": "good requests/s",
    "load/saturation_per_s": "saturation, requests/s",
    "measured_s": "measured, s",
    "startup_s": "start-up, s",
}
_LATENCY = {
    "queue_ms": "queue, ms",
    "ttft_ms": "time to first token, ms",
    "tpot_ms": "time per output token, ms",
    "itl_ms": "between tokens, ms",
    "e2e_ms": "end to end, ms",
    "lag_ms": "generator lag, ms",
}


def _add_quality(table: Any, metrics: Mapping[str, Any]) -> None:
    """A line for each figure of the outputs' quality, with its interval."""
    names = [name for about in metrics.get("quality", ()) for name in about["names"]]
    if names:
        table.add_section()
    for name in names:
        value, low, high = (metrics["metrics"].get(name + part) for part in ("", "/low", "/high"))
        interval = "" if low is None else f" ({_figure(low)} to {_figure(high)})"
        table.add_row(name, _figure(value) + interval, "", "", "")


def _figure(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def _first_outputs(journal_file: Path) -> list[str]:
    journal = Journal(journal_file)
    try:
        records = [from_json(record) for record in islice(journal.records(errors=False), SHOWN_OUTPUTS)]
        records = [record for record in records if record["output"]]  # empty without detokenization
    finally:
        journal.close()
    lines = []
    for record in records:
        output = record["output"]
        text = output if isinstance(output, str) else json.dumps(output)
        lines.append(f"\n{record['id']}: {textwrap.shorten(text, SHOWN_CHARACTERS, placeholder=' ...')}")
    return lines
