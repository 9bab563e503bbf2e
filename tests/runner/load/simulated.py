"""A load through the null engine in simulated time: the runner's own code, only the event loop's clock jumps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import TypeAdapter

from engine.params import SamplingParams
from runner.config.load import LoadSection, OnlineLoad
from runner.dataset import BadRow, Row
from runner.drive import Placed
from runner.interrupts import Interrupts
from runner.journal import Entry
from runner.load.drive import LoadDrive
from runner.load.engine import LoadEngine
from runner.load.search import Tally
from runner.null_async import NullAsyncLLM
from runner.progress import Counts
from runner.recorder import Recorder
from runner.task import Task
from runner.task.prompts import TextPrompts
from runner.writer import Finished, Writer
from tests.runner.load.virtual_time import VirtualLoop


@dataclass
class Kept:
    """In place of the writer: keeps the entries in the order in which they end."""

    entries: list[Entry] = field(default_factory=list)

    def put(self, finished: Finished) -> None:
        self.entries.append(finished.entry)


def section(**values: Any) -> OnlineLoad:
    """A checked load section."""
    found = TypeAdapter(LoadSection).validate_python(values)
    assert isinstance(found, OnlineLoad)
    return found


def rows(count: int, first: int = 0) -> list[Placed]:
    """Rows whose text is their number."""
    return [Placed(place, Row(place, str(place), {"text": f"{place}"})) for place in range(first, count)]


def simulate(
    load: OnlineLoad,
    placed: Iterable[Placed],
    engine: NullAsyncLLM,
    max_tokens: int = 1,
    earlier: dict[int, Tally] | None = None,
) -> list[Entry]:
    """Every row's entry in the order of arrival; seconds since the loop's beginning."""
    kept = Kept()
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, detokenize=False)
    task = Task(TextPrompts("{{ text }}"), params, (), (), False, False)
    recorder = Recorder(task, 1, 0.0, cast(Writer, kept), Counts())
    drive = LoadDrive(recorder, Interrupts(), load, earlier or {}, VirtualLoop)
    drive.run(LoadEngine(engine, load.stream), iter(placed))
    return sorted(kept.entries, key=lambda entry: entry.idx)


def waits(entries: Iterable[Entry]) -> list[float]:
    """Seconds from arrival to service."""
    found = []
    for entry in entries:
        assert entry.scheduled_s is not None
        assert entry.arrival_s is not None
        found.append(entry.scheduled_s - entry.arrival_s)
    return found


def bad(place: int) -> Placed:
    """A row that cannot be read."""
    return Placed(place, BadRow(place, None, "broken"))
