"""One run from its configuration to its report."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.costs import StepGroup
from engine.stats import EngineStats, TimelinePoint
from runner.command import path_value
from runner.config import Config, config_hash, identity
from runner.config.load import OnlineLoad
from runner.config.sections import MlflowTracking
from runner.dataset import Dataset, open_dataset
from runner.dataset.digests import ROW_DIGESTS, RowDigestFile
from runner.drive import Drive, Engine, Seen, pending
from runner.engines import engine_errors, open_engine
from runner.errors import ConfigError, Interrupted, RequirementError, RunFailedError, RunnerError
from runner.finish import finish_run, load_finish, print_summary
from runner.interrupts import Interrupts
from runner.job import Job, note_run
from runner.journal import Journal
from runner.load.drive import LoadDrive
from runner.load.engine import LoadEngine
from runner.load.rows import earlier_trials, rows_of_load, within_load
from runner.measure.energy import no_meter
from runner.measure.power import PowerMeter
from runner.measure.session_work import SessionWork
from runner.progress import Counts, Monitor
from runner.quality.requirements import unmet_requirements
from runner.recorder import Recorder
from runner.run_folder import RunFolder, open_run_folder
from runner.run_info import RunInfo
from runner.sink import live_file, restore_live
from runner.sink.atomic import replaced
from runner.task import Task, check_references, open_task
from runner.tracking import Tracker, TrackingError, open_tracker
from runner.tracking.tracker import Status
from runner.writer import Writer

DATASET_ROWS = "dataset_rows"  # the journal's note of how many rows the dataset gave when it was read to its end

_log = logging.getLogger("runner")


def run(config: Config, resolved: dict[str, Any], command: list[str], job: Job | None = None) -> Path:
    """Run or resume one experiment, and give its folder; an error has it as ``run_dir`` once there is one.

    Args:
        config: checked.
        resolved: the same as plain data, for config.yaml and the tracker.
        command: the command line without ``resume``.
        job: the run's place in a sweep, if it belongs to one.

    Raises:
        ConfigError: something that the configuration names is not there; no model was loaded.
        RunFailedError: the run began and did not end well. What is finished is kept.
        RequirementError: the run is complete, and a requirement is not met.
        Interrupted: SIGINT or SIGTERM. What is finished is kept.
    """
    with Interrupts() as interrupts:
        task, dataset = open_task(config), within_load(open_dataset(config.dataset), config.load)
        first = dataset.first_row()
        if first is not None:
            check_references(config.metrics, first.columns)
            task.check(first.columns)
        fingerprint = dataset.source.fingerprint()
        what = identity(config, fingerprint)
        digest = config_hash(what)
        token = None if job is None else job.token
        folder = open_run_folder(Path(config.output_root), config.name, digest, what, config.resume, token)
        try:
            if job is not None:
                note_run(job, folder.path)
            info = RunInfo(config.name, folder.path.name, folder.path, resolved, digest, command, job)
            with _log_file(folder.path / "run.log"):
                _Run(config, info, folder, dataset, fingerprint, task, interrupts).execute()
            return folder.path
        except RunnerError as error:
            error.run_dir = folder.path
            raise
        finally:
            folder.close()


@dataclasses.dataclass(frozen=True)
class _Run:
    """Everything that is open while a run lasts."""

    config: Config
    info: RunInfo
    folder: RunFolder
    dataset: Dataset
    fingerprint: str
    task: Task
    interrupts: Interrupts

    def execute(self) -> None:
        """Run with whatever ends it told to tracker, log and user."""
        self._announce()
        tracker = self._open_tracker()
        try:
            self._measure(tracker)
            with self.interrupts.shielded():
                metrics, files = self._guarded(lambda: self._finish(tracker))
        except Interrupted:
            self._ended_early(tracker, "KILLED", "interrupted")
            raise
        except RunnerError as error:
            self._ended_early(tracker, "FAILED", str(error), worth_resuming=not isinstance(error, ConfigError))
            raise
        except Exception as error:  # a defect of ours: the user gets a line, run.log the traceback
            _log.exception("internal error")
            self._ended_early(tracker, "FAILED", repr(error))
            raise RunFailedError(f"internal error: {error!r}\nmore in {self.info.run_dir / 'run.log'}") from None
        failure = self._failure(metrics)
        status: Status = "FAILED" if isinstance(failure, RunFailedError) else "FINISHED"
        tracker.finish(status, metrics, files, None if failure is None else str(failure))
        problem = None if failure is None else {"message": str(failure), "exit_code": failure.exit_code}
        self.folder.journal.set(state="finished", problem=problem)
        print_summary(self.info, self.config, metrics, tracker.describe())
        if failure is not None:
            raise failure

    def _finish(self, tracker: Tracker) -> tuple[dict[str, Any], list[Path]]:
        journal = self.folder.journal
        dataset = {
            "source": self.dataset.source.describe(),
            "digest": f"sha256:{self.fingerprint}",
            "rows": journal.get(DATASET_ROWS),
        }
        return finish_run(self.info, self.config, journal, dataset, _saved_stats(journal))

    def _announce(self) -> None:
        verb = "resuming" if self.folder.resumed else "starting"
        _log.info("%s %s: %s", verb, self.info.run_id, shlex.join(self.info.command))
        print(f"{verb} {self.info.recipe}: {self.info.run_dir}", file=sys.stderr, flush=True)
        if not (self.info.run_dir / "config.yaml").is_file():  # a kill may have come before it
            self._guarded(self._write_config)

    def _write_config(self) -> None:
        from omegaconf import OmegaConf

        text = OmegaConf.to_yaml(OmegaConf.create(self.info.config))
        with replaced(self.info.run_dir / "config.yaml") as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _open_tracker(self) -> Tracker:
        tracking = self.config.tracking
        uri = tracking.tracking_uri if isinstance(tracking, MlflowTracking) else None
        experiment = tracking.experiment if isinstance(tracking, MlflowTracking) else None
        if experiment is None and self.info.job is not None:
            experiment = self.info.job.experiment  # a sweep over recipes is one experiment
        root = Path(self.config.output_root)
        try:
            return open_tracker(
                tracking.kind, self.info, tracking_uri=uri, experiment=experiment, output_root=root,
                system_metrics=isinstance(tracking, MlflowTracking) and tracking.system_metrics,
            )  # fmt: skip
        except TrackingError as error:
            raise ConfigError(str(error)) from None

    def _measure(self, tracker: Tracker) -> None:
        """Everything from loading the model to the last row; nothing at all if every row is finished."""
        digests = RowDigestFile(self.info.run_dir / ROW_DIGESTS)
        try:
            self._measure_rows(tracker, Seen(digests=digests))
        finally:
            digests.close()

    def _measure_rows(self, tracker: Tracker, seen: Seen) -> None:
        journal, started_at = self.folder.journal, time.time()
        done = journal.done()
        rows = pending(self.dataset, done, seen)
        if rows is None:
            self._guarded(lambda: journal.set(**{DATASET_ROWS: seen.rows}))
            return
        with self.interrupts.shielded():  # amid imports, an exception may be lost in a destructor
            load_finish(self.config)
        live = live_file(self.config.sinks, self.info.run_dir)
        if live is not None:
            self._guarded(lambda: restore_live(journal, live))
        earlier = earlier_trials(journal, self.config.load)
        session = self._guarded(lambda: journal.begin_session(started_at))
        with open_engine(self.config, self.info.run_dir) as engine:
            ready, measured_from = time.time(), time.monotonic()
            writer = Writer(journal, live, session, ready - started_at, measured_from)
            status, meter = "FAILED", self._meter(engine)
            try:
                with meter, writer, self._monitor(engine, counts := Counts(), done.count, tracker):
                    recorder = Recorder(self.task, session, measured_from, writer, counts)
                    with engine_errors("while running"):
                        if isinstance(engine, LoadEngine) and isinstance(self.config.load, OnlineLoad):
                            LoadDrive(recorder, self.interrupts, self.config.load, earlier).run(engine, rows)
                        elif not isinstance(engine, LoadEngine):
                            Drive(recorder, self.interrupts).run(engine, (row for _, row in rows))
                self._guarded(lambda: journal.set(**{DATASET_ROWS: rows_of_load(seen.rows, self.config.load, session)}))
                status = "FINISHED"
            except Interrupted:
                status = "KILLED"
                raise
            finally:
                elapsed = time.monotonic() - measured_from
                work = SessionWork.of(session, elapsed, stats := engine.stats(), meter.stop())
                self._end_session(work, ready - started_at, status, stats)

    def _monitor(self, engine: Engine | LoadEngine, counts: Counts, done: int, tracker: Tracker) -> Monitor:
        return Monitor(engine, counts, self.dataset.count(), done, self.config.progress, tracker)

    def _meter(self, engine: Engine | LoadEngine) -> PowerMeter:
        """Of the power of the GPU that the engine uses."""
        device = engine.stats().device
        reason = no_meter(device.get("type", ""), self.config.measure.energy)
        return PowerMeter(device.get("uuid") if reason is None else None, reason)

    def _end_session(self, work: SessionWork, startup: float, status: str, stats: EngineStats) -> None:
        """Note the session's end. A disk that is full loses this note, not the error that says so."""
        journal, number = self.folder.journal, work.session
        try:
            journal.set(engine_stats=dataclasses.asdict(stats), **{f"work_{number}": work.to_json()})
            journal.update_session(number, startup, work.measured_seconds, status)
        except (sqlite3.Error, OSError) as error:
            _log.error("the session's end could not be noted: %s", error)

    def _failure(self, metrics: dict[str, Any]) -> RunnerError | None:
        """Why a run that is complete has failed all the same."""
        rows, errors = self.folder.journal.counts()
        if errors > self.config.max_error_rate * rows:
            return RunFailedError(
                f"{errors} of {rows} rows are in error, which is more than max_error_rate={self.config.max_error_rate} "
                f"allows; the first: {self.folder.journal.first_error()}\n"
                f"all of them: {self.info.run_dir / 'errors.jsonl'}"
            )
        unmet = unmet_requirements(metrics)
        return RequirementError("\n".join(unmet)) if unmet else None

    def _ended_early(self, tracker: Tracker, status: Any, reason: str, worth_resuming: bool = True) -> None:
        """Tell tracker, log and user; the line that resumes comes last, unless the same command can only fail again."""
        _log.error("%s: %s", status, reason)
        tracker.finish(status, {}, [self.info.run_dir / "config.yaml"], reason)
        rows, _ = self.folder.journal.counts()
        if not rows and not worth_resuming:
            return
        resume = [*self.info.command, f"resume={path_value(self.info.run_dir)}"]
        print(f"{rows} rows are finished and kept in {self.info.run_dir}", file=sys.stderr)
        print(f"resume with: {shlex.join(resume)}", file=sys.stderr, flush=True)

    def _guarded(self, step: Any) -> Any:
        """Run a step that writes into the run folder; what the disk refuses becomes one message."""
        try:
            return step()
        except (OSError, sqlite3.Error) as error:
            _log.exception("cannot write")
            raise RunFailedError(f"{self.info.run_dir} cannot be written: {error}. Is the disk full?") from None


def _saved_stats(journal: Journal) -> EngineStats:
    """The last session's engine totals, also when that session ran in an earlier process."""
    saved = journal.get("engine_stats")
    if saved is None:
        return EngineStats()
    saved["timeline"] = tuple(TimelinePoint(**point) for point in saved["timeline"])
    saved["step_groups"] = tuple(StepGroup(**group) for group in saved.get("step_groups", ()))
    return EngineStats(**saved)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Log to run.log. A log that cannot be written must not hide what it would have said."""
    logging.raiseExceptions = False
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(min(before, logging.INFO))
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()
