"""Whether MLflow's store answers."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from runner.doctor.finding import Finding

SECONDS = 5.0


def check_tracking(uri: str | None, outputs: Path) -> Iterator[Finding]:
    """The store that runs would write to; nothing is created.

    Args:
        uri: ``tracking.tracking_uri``; ``None`` is the SQLite file in the output folder.
        outputs: the output folder.
    """
    from runner.tracking.store import absolute_uri, sqlite_path
    from runner.tracking.tracker import TrackingError

    try:
        found = absolute_uri(uri, outputs)
    except TrackingError as error:
        yield Finding("FAIL", "mlflow", str(error), "give --tracking-uri another value, or run with tracking=none")
        return
    if found.startswith("sqlite"):
        yield _sqlite(sqlite_path(found))
    elif found.startswith("http"):
        yield _server(found)
    else:
        yield Finding("OK", "mlflow", f"{found} (not asked: a run will)")


def _sqlite(path: Path) -> Finding:
    import sqlite3

    if not path.exists():
        return Finding("OK", "mlflow", f"{path} is made by the first run")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=SECONDS)) as database:
            (runs,) = database.execute("SELECT COUNT(*) FROM runs").fetchone()
    except sqlite3.Error as error:
        fix = "move it away (a new one is made), or choose another: tracking.tracking_uri=sqlite:////PATH"
        return Finding("FAIL", "mlflow", f"{path} is no MLflow database: {error}", fix)
    return Finding("OK", "mlflow", f"{path}, {runs} runs")


def _server(uri: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS) as answer:
            return Finding("OK", "mlflow", f"{uri} answers ({answer.status})")
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        fix = "start it (mlflow server), or run with tracking=none"
        return Finding("FAIL", "mlflow", f"{uri} does not answer: {reason}", fix)
