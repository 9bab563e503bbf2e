"""The measured phase: pending rows through the engine, finished rows to the writer. Only rows in flight are held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, tee
from typing import Any, NamedTuple, Protocol

from engine.params import Prompt
from engine.stats import EngineStats
from runner.dataset import BadRow, Dataset, Row
from runner.dataset.digests import RowDigestFile
from runner.interrupts import Interrupts
from runner.journal import DoneRows
from runner.recorder import InFlight, Output, Params, Recorder, Refused


class Engine(Protocol):
    """What the runner needs of an engine; ``engine.LLM`` and ``runner.null_engine.NullLLM`` have it."""

    def stream(self, prompts: Iterable[Prompt], params: Any = None) -> Iterator[Output]:
        """Each prompt's output as it finishes; ``request_id`` is the prompt's number in the stream."""

    def stats(self) -> EngineStats:
        """Totals so far."""

    def close(self) -> None:
        """Give everything back."""


@dataclass
class Drive:
    """One session's way of rows through the engine, all at once."""

    recorder: Recorder
    interrupts: Interrupts
    in_flight: dict[int, InFlight] = field(default_factory=dict)

    def run(self, engine: Engine, rows: Iterable[Row | BadRow]) -> None:
        """Run all rows.

        Raises:
            Interrupted: a signal arrived; everything that the engine gave back is with the writer.
            RunFailedError: the journal cannot be written.
        """
        task = self.recorder.task
        prompts: Iterable[Prompt]
        params: Any
        if task.varies:
            # two views of one stream: right in whichever order the engine pulls them
            left, right = tee(self._requests(rows))
            prompts, params = (prompt for prompt, _ in left), (own for _, own in right)
        else:
            prompts, params = (prompt for prompt, _ in self._requests(rows)), task.params
        outputs = engine.stream(prompts, params)
        while (output := next(outputs, None)) is not None:
            with self.interrupts.shielded():
                self.recorder.finish(self.in_flight.pop(int(output.request_id)), output)

    def _requests(self, rows: Iterable[Row | BadRow]) -> Iterator[tuple[Prompt, Params]]:
        number = 0
        for row in rows:
            request = self.recorder.request(row)
            if isinstance(request, Refused):
                with self.interrupts.shielded():
                    self.recorder.refuse(request)
                continue
            self.in_flight[number] = request.row
            number += 1
            yield request.prompt, request.params


class Placed(NamedTuple):
    """A row and its place in the order in which the dataset's rows are started, from 0."""

    place: int
    row: Row | BadRow


@dataclass
class Seen:
    """How many rows the dataset gave so far; at its end, how many it has. Counted apart from the journal, so that the
    report can tell whether a row was lost between the two."""

    rows: int = 0
    digests: RowDigestFile | None = None

    def counted(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        """The same rows, each counted and its digest noted as it passes."""
        for row in rows:
            self.rows += 1
            if self.digests is not None:
                self.digests.add(row)
            yield row


def pending(dataset: Dataset, done: DoneRows, seen: Seen) -> Iterator[Placed] | None:
    """The rows that are not finished, from the first one on, with their places; ``None`` if there are none."""
    rows = (Placed(seen.rows - 1, row) for row in seen.counted(dataset.iter_rows()) if row.index not in done)
    first = next(rows, None)
    return None if first is None else chain([first], rows)
