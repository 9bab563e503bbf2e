"""From rows to requests, and from outputs to records at the writer: the same for every way of driving the engine."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.outputs import EmbeddingRequestOutput, RequestMetrics, RequestOutput
from engine.params import PoolingParams, Prompt, SamplingParams
from runner.dataset import BadRow, Row
from runner.journal import Entry
from runner.progress import Counts
from runner.task import RowError, Task, output_tokens
from runner.writer import Finished, Writer

Output = RequestOutput | EmbeddingRequestOutput
Params = SamplingParams | PoolingParams


class InFlight(NamedTuple):
    """What is kept of a row while the engine has it. ``id`` is ``None`` if it could not be read."""

    row: int
    id: str | None
    kept: dict[str, Any]


class Request(NamedTuple):
    """A row that the engine can be asked."""

    row: InFlight
    prompt: Prompt
    params: Params


class Refused(NamedTuple):
    """A row that never reaches the engine."""

    row: InFlight
    error: str


@dataclass(slots=True)
class Sent:
    """How a load sent a request: when it was to arrive, when it was sent (``None``: never), in which phase, and the
    seconds between its outputs. Moments are of the event loop's clock."""

    arrival: float
    phase: str
    sent: float | None = None
    gaps: array[float] | None = None


@dataclass(frozen=True)
class Recorder:
    """One session's records. ``measured_from`` is 0 of the times that they hold."""

    task: Task
    session: int
    measured_from: float
    writer: Writer
    counts: Counts

    def request(self, row: Row | BadRow) -> Request | Refused:
        """What the engine is asked for a row."""
        if isinstance(row, BadRow):
            return Refused(InFlight(row.index, row.id, {}), row.error)
        task = self.task
        try:
            prompt = task.prompts.make(row.columns)
            params = task.row_params(row.columns, row.index)
        except RowError as error:
            return Refused(InFlight(row.index, row.id, task.kept(row.columns, None)), str(error))
        return Request(InFlight(row.index, row.id, task.kept(row.columns, prompt)), prompt, params)

    def refuse(self, refused: Refused, sent: Sent | None = None) -> Entry:
        """Record a row that never reached the engine."""
        return self._put_error(refused.row, refused.error, None, sent)

    def finish(self, row: InFlight, output: Output, sent: Sent | None = None) -> Entry:
        """Record an output; gives back what the journal gets, without its record.

        Raises:
            RunFailedError: the journal cannot be written.
        """
        if output.error is not None:
            return self._put_error(row, output.error, output, sent)
        result = self.task.result(output)
        entry = self._entry(row, output, _one_reason(result.get("finish_reason")), None, sent)
        return self._put(entry, {"id": row.id, **row.kept, **result})

    def _put_error(self, row: InFlight, error: str, output: Output | None, sent: Sent | None) -> Entry:
        entry = self._entry(row, output, "error", error, sent)
        return self._put(entry, {"id": row.id, "row": row.row, **row.kept, "finish_reason": "error", "error": error})

    def _put(self, entry: Entry, record: Mapping[str, Any]) -> Entry:
        self.writer.put(Finished(entry, record))
        self.counts.add(error=entry.error is not None)
        return entry

    def _entry(
        self, row: InFlight, output: Output | None, reason: str | None, error: str | None, sent: Sent | None
    ) -> Entry:
        known = None if output is None else output.metrics
        metrics = known or RequestMetrics(0.0)
        arrival = sent.arrival if sent is not None else known.arrival if known is not None else None
        return Entry(
            idx=row.row,
            id=row.id,
            session=self.session,
            record="",
            prompt_tokens=0 if output is None else len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens if isinstance(output, RequestOutput) else 0,
            output_tokens=0 if output is None else output_tokens(output),
            arrival_s=self._since(arrival),
            scheduled_s=self._since(metrics.scheduled),
            first_token_s=None if isinstance(output, EmbeddingRequestOutput) else self._since(metrics.first_token),
            last_token_s=self._since(metrics.last_token),
            preemptions=metrics.preemptions,
            finish_reason=reason,
            error=error,
            sent_s=None if sent is None else self._since(sent.sent),
            phase=None if sent is None else sent.phase,
            gaps=None if sent is None or not sent.gaps else sent.gaps.tobytes(),
        )

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self.measured_from


def _one_reason(reason: Any) -> str | None:
    """Of several completions, ``length`` if any was cut, else the first one's."""
    if isinstance(reason, list):
        return "length" if "length" in reason else reason[0]
    return None if reason is None else str(reason)
