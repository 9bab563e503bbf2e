"""The measured phase: pending rows through the engine, finished rows to the writer. Only rows in flight are held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, tee
from typing import Any, NamedTuple, Protocol

from engine.outputs import EmbeddingRequestOutput, RequestMetrics, RequestOutput
from engine.params import PoolingParams, Prompt, SamplingParams
from engine.stats import EngineStats
from runner.dataset import BadRow, Dataset, Row
from runner.interrupts import Interrupts
from runner.journal import DoneRows, Entry
from runner.progress import Counts
from runner.task import RowError, Task, output_tokens
from runner.writer import Finished, Writer

Output = RequestOutput | EmbeddingRequestOutput
Params = SamplingParams | PoolingParams


class Engine(Protocol):
    """What the runner needs of an engine; ``engine.LLM`` and ``runner.null_engine.NullLLM`` have it."""

    def stream(self, prompts: Iterable[Prompt], params: Any = None) -> Iterator[Output]:
        """Each prompt's output as it finishes; ``request_id`` is the prompt's number in the stream."""

    def stats(self) -> EngineStats:
        """Totals so far."""

    def close(self) -> None:
        """Give everything back."""


class InFlight(NamedTuple):
    """What is kept of a row while the engine has it."""

    row: int
    id: str
    kept: dict[str, Any]


@dataclass
class Drive:
    """One session's way of rows through the engine."""

    task: Task
    session: int
    measured_from: float
    writer: Writer
    counts: Counts
    interrupts: Interrupts
    in_flight: dict[int, InFlight] = field(default_factory=dict)

    def run(self, engine: Engine, rows: Iterable[Row | BadRow]) -> None:
        """Run all rows.

        Raises:
            Interrupted: a signal arrived; everything that the engine gave back is with the writer.
            RunFailedError: the journal cannot be written.
        """
        prompts: Iterable[Prompt]
        params: Any
        if self.task.varies:
            # two views of one stream: right in whichever order the engine pulls them
            left, right = tee(self._requests(rows))
            prompts, params = (prompt for prompt, _ in left), (own for _, own in right)
        else:
            prompts, params = (prompt for prompt, _ in self._requests(rows)), self.task.params
        outputs = engine.stream(prompts, params)
        while (output := next(outputs, None)) is not None:
            with self.interrupts.shielded():
                self._finish(output)

    def _requests(self, rows: Iterable[Row | BadRow]) -> Iterator[tuple[Prompt, Params]]:
        number = 0
        for row in rows:
            if isinstance(row, BadRow):
                self._refuse(row.index, row.id, {}, row.error)
                continue
            try:
                prompt = self.task.prompts.make(row.columns)
                params = self.task.row_params(row.columns, row.index)
            except RowError as error:
                self._refuse(row.index, row.id, self.task.kept(row.columns, None), str(error))
                continue
            self.in_flight[number] = InFlight(row.index, row.id, self.task.kept(row.columns, prompt))
            number += 1
            yield prompt, params

    def _refuse(self, index: int, name: str | None, kept: dict[str, Any], error: str) -> None:
        """A row that never reaches the engine."""
        with self.interrupts.shielded():
            self._put(InFlight(index, name or "", kept), name, error)

    def _finish(self, output: Output) -> None:
        row = self.in_flight.pop(int(output.request_id))
        if output.error is not None:
            self._put(row, row.id, output.error, output)
            return
        result = self.task.result(output)
        entry = self._entry(row.row, row.id, output, _one_reason(result.get("finish_reason")), None)
        self.writer.put(Finished(entry, {"id": row.id, **row.kept, **result}))
        self.counts.add(error=False)

    def _put(self, row: InFlight, name: str | None, error: str, output: Output | None = None) -> None:
        entry = self._entry(row.row, name, output, "error", error)
        record = {"id": name, "row": row.row, **row.kept, "finish_reason": "error", "error": error}
        self.writer.put(Finished(entry, record))
        self.counts.add(error=True)

    def _entry(
        self, index: int, name: str | None, output: Output | None, reason: str | None, error: str | None
    ) -> Entry:
        metrics = (output.metrics if output is not None else None) or RequestMetrics(0.0)
        known = output is not None and output.metrics is not None
        return Entry(
            idx=index,
            id=None if name is None else name.encode("utf-8", "backslashreplace").decode(),
            session=self.session,
            record="",
            prompt_tokens=0 if output is None else len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens if isinstance(output, RequestOutput) else 0,
            output_tokens=0 if output is None else output_tokens(output),
            arrival_s=self._since(metrics.arrival) if known else None,
            scheduled_s=self._since(metrics.scheduled),
            first_token_s=None if isinstance(output, EmbeddingRequestOutput) else self._since(metrics.first_token),
            last_token_s=self._since(metrics.last_token),
            preemptions=metrics.preemptions,
            finish_reason=reason,
            error=error,
        )

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self.measured_from


def _one_reason(reason: Any) -> str | None:
    """Of several completions, ``length`` if any was cut, else the first one's."""
    if isinstance(reason, list):
        return "length" if "length" in reason else reason[0]
    return None if reason is None else str(reason)


@dataclass
class Seen:
    """How many rows the dataset gave so far; at its end, how many it has. Counted apart from the journal, so that the
    report can tell whether a row was lost between the two."""

    rows: int = 0

    def counted(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        """The same rows, each counted as it passes."""
        for row in rows:
            self.rows += 1
            yield row


def pending(dataset: Dataset, done: DoneRows, seen: Seen) -> Iterator[Row | BadRow] | None:
    """The rows that are not finished, from the first one on; ``None`` if there are none."""
    rows = (row for row in seen.counted(dataset.iter_rows()) if row.index not in done)
    first = next(rows, None)
    return None if first is None else chain([first], rows)
