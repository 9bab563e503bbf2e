"""What a load was and what came of it, from requests.parquet and the section ``load`` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runner.config.load import ConcurrencyLoad, OnlineLoad, OpenLoad, PoissonLoad, SaturationLoad, TimedLoad
from runner.load.arrivals import digest_of
from runner.load.phases import MEASURED, WARMUP, phase_of
from runner.load.search import Search, tallies
from runner.measure.batch_means import FEWEST, batch_means
from runner.measure.latency import column
from runner.measure.requests_file import RequestsFile

Values = dict[str, float | int | None]
Array = npt.NDArray[np.float64]
_TIMES = ("arrival_s", "first_token_s", "last_token_s", "output_tokens", "error")
DURATION_SHARE = 0.9  # of load.duration_s: if the last arrival is before that, the dataset must have ended
LONGER_THAN_A_SESSION = 1e7  # seconds
NAMES = (
    "load/asked_per_s", "load/arrived_per_s", "load/sent_per_s", "load/lag_max_ms", "load/warmup", "load/good_share",
    "load/goodput_per_s", "load/queue_interval_ms",
)  # fmt: skip


@dataclass
class Span:
    """A phase's requests in one session: how many, how many of them were sent, and their first and last moments."""

    requests: int = 0
    sent: int = 0
    arrivals: list[float] = field(default_factory=lambda: [np.inf, -np.inf])
    sendings: list[float] = field(default_factory=lambda: [np.inf, -np.inf])
    end: float = -np.inf


@dataclass(frozen=True)
class LoadSummary:
    """Figures of a load. ``phase``: whose requests the run's figures are of; ``measured_s``: from the phase's first
    arrival to its last end, summed over sessions."""

    phase: str
    measured_s: float
    values: Values
    notes: dict[str, str]
    detail: dict[str, Any]


def summarise_load(requests: RequestsFile, load: OnlineLoad) -> LoadSummary:
    """The figures of a load's measured phase; of a search's, those of the highest rate that held.

    Each request is read a few times; of all of them only arrivals and waits are held, 32 bytes with their order.
    """
    search = _search(requests, load) if isinstance(load, SaturationLoad) else None
    phase = MEASURED if search is None else phase_of(search.held_trial or 0)
    measured = requests.of_phase(phase)
    spans = list(_spans(measured).values())
    seconds = sum(max(span.end - span.arrivals[0], 0.0) for span in spans if np.isfinite(span.end))
    good = sum(int(_good(group, load.goodput.declared).sum()) for group in measured.groups(*_TIMES))
    total = sum(span.requests for span in spans)
    values: Values = dict.fromkeys(NAMES)
    values["load/asked_per_s"] = _asked(load, search)
    values["load/arrived_per_s"] = _rate([(span.requests, span.arrivals) for span in spans])
    values["load/sent_per_s"] = _rate([(span.sent, span.sendings) for span in spans])
    values["load/warmup"] = sum(group.num_rows for group in requests.of_phase(WARMUP).groups("phase"))
    if load.goodput.declared and total:
        values["load/good_share"] = good / total
        values["load/goodput_per_s"] = good / seconds if seconds > 0 else None
    if search is not None:
        values["load/saturation_per_s"] = search.held
    if not isinstance(load, ConcurrencyLoad):
        values["load/lag_max_ms"] = _largest_lag(measured)
    waits = batch_means(_waits(measured))
    values["load/queue_interval_ms"] = None if waits is None else waits[1] * 1e3
    return LoadSummary(phase, seconds, values, _notes(values, load), _detail(load, phase, total, search, requests))


def _asked(load: OnlineLoad, search: Search | None) -> float | None:
    if search is not None:
        return search.trials[search.held_trial or 0][0] if search.trials else None
    return load.rate if isinstance(load, OpenLoad) else None


def _notes(values: Values, load: OnlineLoad) -> dict[str, str]:
    reasons = dict.fromkeys(NAMES, "no request was measured")
    if isinstance(load, ConcurrencyLoad):
        reasons |= dict.fromkeys(("load/asked_per_s", "load/lag_max_ms"), "a closed loop has no schedule")
    if not load.goodput.declared:
        reasons |= dict.fromkeys(("load/good_share", "load/goodput_per_s"), "no limit is declared in load.goodput")
    reasons["load/saturation_per_s"] = "no rate held"
    reasons["load/queue_interval_ms"] = f"needs at least {FEWEST} requests"
    return {name: reason for name, reason in reasons.items() if name in values and values[name] is None}


def _detail(
    load: OnlineLoad, phase: str, total: int, search: Search | None, requests: RequestsFile
) -> dict[str, Any]:  # fmt: skip
    detail: dict[str, Any] = {"kind": load.kind, "phase": phase, "requests": total, "goodput": load.goodput.declared}
    if isinstance(load, OpenLoad):
        detail["schedule"] = digest_of(load, total)
    if isinstance(load, TimedLoad) and load.duration_s is not None:
        lasted = max((span.arrivals[1] for span in _spans(requests).values() if span.requests), default=0.0)
        if lasted < DURATION_SHARE * load.duration_s:
            detail["dataset_ended_s"] = lasted
    if isinstance(load, SaturationLoad) and search is not None:
        detail["schedule"] = digest_of(PoissonLoad(rate=1.0, seed=load.seed), load.trial_requests)
        detail |= {
            "trials": search.table(),
            "complete": search.next_rate() is None,
            "bracketed": search.broke is not None,
        }
    return detail


def _search(requests: RequestsFile, load: SaturationLoad) -> Search:
    def rows() -> Iterator[tuple[str | None, bool]]:
        for group in requests.groups("phase", *_TIMES):
            yield from zip(group.column("phase").to_pylist(), _good(group, load.goodput.declared).tolist(), strict=True)

    search = Search(load)
    search.replay(tallies(rows()))
    return search


def _good(table: pa.Table, limits: Mapping[str, float]) -> npt.NDArray[np.bool_]:
    """``runner.load.goodput.is_good`` of every row.  # [rows]"""
    arrival, first, last = (column(table, name) for name in _TIMES[:3])
    tokens = column(table, "output_tokens")
    good: npt.NDArray[np.bool_] = np.asarray(pc.is_null(table.column("error"))) & ~np.isnan(arrival) & ~np.isnan(last)
    spans = {"e2e_ms": last - arrival, "ttft_ms": first - arrival}
    spans["tpot_ms"] = (last - first) / np.where(tokens > 1, tokens - 1, np.nan)
    for name, limit in limits.items():
        good &= np.isnan(spans[name]) | (spans[name] * 1e3 <= limit)
    return good


def _spans(requests: RequestsFile) -> dict[int, Span]:
    spans: dict[int, Span] = {}
    for group in requests.groups("session", "arrival_s", "sent_s", "last_token_s"):
        session = column(group, "session")
        for number in np.unique(session):
            span, own = spans.setdefault(int(number), Span()), session == number
            arrival, sent, last = (column(group, n)[own] for n in ("arrival_s", "sent_s", "last_token_s"))
            span.requests += int((~np.isnan(arrival)).sum())
            span.sent += int((~np.isnan(sent)).sum())
            for moments, ends in ((arrival, span.arrivals), (sent, span.sendings)):
                ends[0] = float(np.nanmin([ends[0], *moments]))
                ends[1] = float(np.nanmax([ends[1], *moments]))
            span.end = float(np.nanmax([span.end, *last]))
    return spans


def _rate(parts: list[tuple[int, list[float]]]) -> float | None:
    """Requests per second: of each session the gaps between the first and the last over their seconds."""
    gaps = sum(requests - 1 for requests, _ in parts if requests > 1)
    seconds = sum(ends[1] - ends[0] for requests, ends in parts if requests > 1)
    return gaps / seconds if seconds > 0 else None


def _largest_lag(requests: RequestsFile) -> float | None:
    lags = [column(group, "sent_s") - column(group, "arrival_s") for group in requests.groups("sent_s", "arrival_s")]
    found = [float(np.nanmax(lag)) for lag in lags if lag.size and not np.isnan(lag).all()]
    return max(found) * 1e3 if found else None


def _waits(requests: RequestsFile) -> Array:
    """Seconds from arrival to the first step, in the order of sessions and arrivals.  # [requests]"""
    moments, waits, size = np.empty(requests.rows()), np.empty(requests.rows()), 0
    for group in requests.groups("session", "arrival_s", "scheduled_s"):
        arrival = column(group, "arrival_s")
        wait = column(group, "scheduled_s") - arrival
        known = ~np.isnan(wait)
        end = size + int(known.sum())
        moments[size:end] = (arrival + LONGER_THAN_A_SESSION * column(group, "session"))[known]
        waits[size:end], size = wait[known], end
    ordered: Array = waits[:size][np.argsort(moments[:size], kind="stable")]
    return ordered
