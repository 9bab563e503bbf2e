"""The MLflow store: opened once, its schema made under a lock, its chatter off."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from runner.tracking.tracker import TrackingError

LOCK_SECONDS = 120.0
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
# Off before mlflow is imported: usage reports, its own logging set-up, and minutes of retries on a wrong address.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


@dataclass(frozen=True)
class Store:
    """An open MLflow store and the experiment in it. ``client`` is an ``mlflow.MlflowClient``."""

    uri: str
    client: Any
    experiment: str
    experiment_id: str


def open_store(tracking_uri: str | None, experiment: str, output_root: Path) -> Store:
    """Connect, make the schema if the database is new, and find or create the experiment.

    Raises:
        TrackingError: the URI is wrong, or nothing answers there.
    """
    uri = absolute_uri(tracking_uri, output_root)
    try:
        with _quiet_mlflow():
            import mlflow  # noqa: F401 - takes a second, in which no other process should wait for the lock
        with _only_one(uri):
            client = client_of(uri)  # makes and migrates the schema
            return Store(uri, client, experiment, _experiment(client, experiment, uri, output_root))
    except TrackingError:
        raise
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrackingError(
            f"tracking.tracking_uri={uri!r} cannot be used: {first_line}. "
            f"Give a database (sqlite:////absolute/path.db) or a server (http://host:port), or tracking=none."
        ) from error


def client_of(uri: str) -> Any:
    """An ``mlflow.MlflowClient`` for a store that was opened before."""
    with _quiet_mlflow():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def absolute_uri(tracking_uri: str | None, output_root: Path) -> str:
    """The URI with an absolute SQLite path, so that it means the same from any folder.

    Raises:
        TrackingError: no scheme that MLflow's tracking knows.
    """
    if tracking_uri is None:
        return f"sqlite:///{output_root.absolute() / 'mlflow.db'}"
    scheme = urlparse(tracking_uri).scheme.partition("+")[0]
    if scheme not in SCHEMES and tracking_uri != "databricks":
        raise TrackingError(
            f"tracking.tracking_uri={tracking_uri!r} is not allowed: it must start with one of "
            f"{', '.join(s + '://' for s in SCHEMES)}, for instance sqlite:////absolute/path.db"
        )
    if scheme != "sqlite":
        return tracking_uri
    return f"sqlite:///{sqlite_path(tracking_uri).absolute()}"


def sqlite_path(uri: str) -> Path:
    """The database file behind a SQLite URI: three slashes and a relative path, or four and an absolute one."""
    return Path(uri.partition(":///")[2].partition("?")[0])


def mlflow_command(uri: str) -> str:
    """The command that shows the store. Names mlflow's full path where the shell would not find it."""
    if uri.startswith("http"):
        return f"open {uri}"
    beside = Path(sys.executable).with_name("mlflow")
    program = str(beside) if beside.exists() and shutil.which("mlflow") != str(beside) else "mlflow"
    return f"{shlex.quote(program)} ui --backend-store-uri {shlex.quote(uri)}"


@contextmanager
def _only_one(uri: str) -> Iterator[None]:
    """For SQLite, one process at a time: MLflow's migrations of a fresh database collide otherwise."""
    if not uri.startswith("sqlite"):
        yield
        return
    from filelock import FileLock

    path = sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingError(f"the folder of {uri!r} cannot be made: {error}") from error
    with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
        yield


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Import and open MLflow without its telemetry and its INFO lines; what it warns about still shows."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    yield
    for name in ("mlflow", "alembic"):  # MLflow's import may have set its own level
        logging.getLogger(name).setLevel(logging.WARNING)


def _experiment(client: Any, name: str, uri: str, output_root: Path) -> str:
    """The experiment's id. Made with an absolute artifact location for a local store; a server knows its own."""
    found = client.get_experiment_by_name(name)
    if found is None:
        local = uri.startswith("sqlite")
        location = (output_root / "mlflow-artifacts" / _folder(name)).as_uri() if local else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except Exception:
            found = client.get_experiment_by_name(name)  # another process made it between the two calls
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _folder(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
