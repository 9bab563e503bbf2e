"""``runner doctor``: a line for each finding, and the exit code."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from runner.doctor.finding import Finding, worst
from runner.errors import ConfigError

USAGE = """runner doctor [--output-root FOLDER] [--tracking-uri URI] [--json]
looks at devices, memory, libraries, threads, disk, MLflow's store and every kernel; exit code 1 if anything FAILs"""
WIDTH = 31  # of the column that says what was looked at


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"runner doctor: {message}\nusage: {USAGE}")


def run_doctor(words: Sequence[str]) -> int:
    """Look, print each finding as soon as it is known, and give 0, or 1 if something fails.

    Raises:
        ConfigError: the arguments are wrong.
    """
    options = _options(words)
    if options is None:
        print(f"usage: {USAGE}")
        return 0
    findings = []
    for finding in examine(Path(options.output_root), options.tracking_uri):
        findings.append(finding)
        if not options.json:
            print(as_line(finding), flush=True)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        counts = {level: sum(one.level == level for one in findings) for level in ("OK", "WARN", "FAIL")}
        print(", ".join(f"{count} {level}" for level, count in counts.items() if count))
    return 1 if worst(findings) == "FAIL" else 0


def examine(outputs: Path, tracking_uri: str | None) -> Iterator[Finding]:
    """Everything, the cheapest first: what needs torch is imported only when it is its turn."""
    from runner.doctor.libraries import check_libraries
    from runner.doctor.machine import check_devices, check_disk, check_memory, check_threads
    from runner.doctor.tracking import check_tracking

    libraries = list(check_libraries())
    yield from libraries
    yield from check_threads(os.environ)
    yield from check_memory()
    yield from check_disk(outputs)
    yield from check_tracking(tracking_uri, outputs)
    if worst(libraries) == "FAIL":
        yield Finding("WARN", "devices and kernels", "not looked at while libraries are missing", "mend those first")
        return
    from runner.doctor.kernels import check_kernels

    yield from check_devices()
    yield from check_kernels()


def as_line(finding: Finding) -> str:
    """``OK    cpu norm    equal to its reference``, with the fix below it."""
    fix = f"\n{'':6}{'':{WIDTH}}-> {finding.fix}" if finding.fix else ""
    return f"{finding.level:<6}{finding.what:<{WIDTH}} {finding.found}{fix}"


def _options(words: Sequence[str]) -> argparse.Namespace | None:
    """The options, or ``None`` if help was asked for."""
    parser = _Parser(prog="runner doctor", add_help=False, allow_abbrev=False)
    parser.add_argument("--output-root", default="outputs")
    parser.add_argument("--tracking-uri", default=None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    options = parser.parse_args(list(words))
    return None if options.help else options
