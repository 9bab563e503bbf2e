"""metrics.json: what one run measured, under the names of the definitions table."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from engine.stats import EngineStats
from runner.config.load import OfflineLoad, OnlineLoad
from runner.measure.conditions import gpu_conditions
from runner.measure.energy import energy, memory
from runner.measure.gaps import gap_statistics
from runner.measure.latency import LOAD_SPANS, SPANS, request_times, statistics, total, without_error
from runner.measure.load import summarise_load
from runner.measure.requests_file import RequestsFile
from runner.measure.roofline import Found, roofline, roofline_detail
from runner.measure.session_work import SessionWork
from runner.measure.timeline import timeline_columns
from runner.run_info import Session

SCHEMA = 1


def summarise(
    requests: RequestsFile,
    stats: EngineStats,
    sessions: Sequence[Session],
    works: Sequence[SessionWork] = (),
    ceilings: Found | None = None,
    load: OnlineLoad | OfflineLoad | None = None,
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        requests: one row per request of all sessions; times in seconds since that session's measured phase began. Read
            several times, a row group at a time.
        stats: the engine's totals in the last session; timeline, KV use and start-up phases come from it.
        sessions: every process that worked on the run, in order.
        works: what those of them noted that were not killed.
        ceilings: of every machine in ``works``.
        load: how the requests came. Of a load throughput and latency are of the measured phase alone.

    Returns:
        ``metrics`` (flat, ``ttft_ms/p99`` to a number or null), ``notes`` (why a metric is null), ``samples`` (how many
        requests each distribution rests on), ``sessions``, ``engine``, ``roofline`` (ceilings and groups of steps, or
        null), ``gpu`` (``gpu_conditions``), ``load`` (null for rows all at once) and ``timeline``. JSON types only, no
        NaN.
    """
    rows = _rows(requests)
    found = summarise_load(requests, load) if isinstance(load, OnlineLoad) else None
    if found is not None:
        requests = requests.of_phase(found.phase)
    measured = sum(session.measured_seconds for session in sessions) if found is None else found.measured_s
    metrics: dict[str, float | int | None] = {}
    notes: dict[str, str] = {}
    _throughput(rows if found is None else _rows(requests), measured, metrics, notes)
    samples = _times(requests, SPANS if found is None else (*SPANS, *LOAD_SPANS, "itl_ms"), metrics, notes)
    if found is not None:
        metrics |= found.values
        notes |= found.notes
    metrics |= rows
    _engine(rows, stats, metrics, notes)
    for values, missing in (
        roofline(works, ceilings or {}),
        energy(works, sessions, rows["tokens/output"]),
        memory(stats),
    ):
        metrics |= values
        notes |= missing
    metrics |= {"measured_s": measured, "startup_s": sum(s.startup_seconds for s in sessions)}
    metrics |= {f"startup_s/{phase}": float(seconds) for phase, seconds in stats.startup.items()}
    metrics["sessions"] = len(sessions)
    return {
        "schema": SCHEMA,
        "metrics": metrics,
        "notes": notes,
        "samples": samples,
        "sessions": [asdict(session) for session in sessions],
        "engine": {"device": dict(stats.device), "numerics": dict(stats.numerics), "steps": stats.steps},
        "roofline": roofline_detail(works, ceilings or {}),
        "gpu": gpu_conditions(works),
        "load": None if found is None else found.detail,
        "timeline": timeline_columns(stats.timeline),
    }


def _times(
    requests: RequestsFile, names: Iterable[str], metrics: dict[str, float | int | None], notes: dict[str, str]
) -> dict[str, int]:
    """Put in each time's statistics; gives the numbers of samples."""
    samples = {}
    for name in names:
        values, missing, samples[name] = _distribution(requests, name)
        metrics |= values
        notes |= missing
    return samples


def _distribution(requests: RequestsFile, name: str) -> tuple[dict[str, float | None], dict[str, str], int]:
    """One time's statistics, notes and number of samples. A function of its own, so that the samples go before the
    next time's are read."""
    if name == "itl_ms":
        return gap_statistics(requests)
    samples = request_times(requests, name)
    return *statistics(name, samples), int(samples.size)


def _rows(requests: RequestsFile) -> dict[str, int]:
    counts = dict.fromkeys(("rows/total", "rows/ok", "rows/error", "rows/truncated"), 0)
    tokens = {
        name: f"tokens/{name.removesuffix('_tokens')}" for name in ("prompt_tokens", "output_tokens", "cached_tokens")
    }
    counts |= dict.fromkeys((*tokens.values(), "preemptions"), 0)
    for group in requests.groups(*tokens, "preemptions", "finish_reason", "error"):
        ok = without_error(group)
        counts["rows/total"] += group.num_rows
        counts["rows/ok"] += ok.num_rows
        counts["rows/error"] += group.num_rows - ok.num_rows
        counts["rows/truncated"] += int(pc.sum(pc.equal(ok.column("finish_reason"), "length")).as_py() or 0)
        counts["preemptions"] += total(group, "preemptions")  # also what rows in error gave up
        for column, name in tokens.items():
            counts[name] += total(ok, column)
    return counts


def _throughput(
    rows: dict[str, int], measured: float, metrics: dict[str, float | int | None], notes: dict[str, str]
) -> None:
    done = {
        "output_tokens_per_s": rows["tokens/output"],
        "total_tokens_per_s": rows["tokens/prompt"] + rows["tokens/output"],
        "requests_per_s": rows["rows/ok"],
    }
    for name, amount in done.items():
        metrics[name] = amount / measured if measured > 0 else None
        if measured <= 0:
            notes[name] = "no measured seconds were recorded"


def _engine(
    rows: dict[str, int],
    stats: EngineStats,
    metrics: dict[str, float | int | None],
    notes: dict[str, str],
) -> None:
    prompt, blocks = rows["tokens/prompt"], stats.kv_blocks_total
    metrics["prefix_hit_rate"] = rows["tokens/cached"] / prompt if prompt else None
    metrics["kv_use/peak"] = stats.peak_kv_blocks / blocks if blocks else None
    metrics["running/peak"] = stats.peak_running
    metrics |= {"drafts/accepted": stats.acceptance_rate, "drafts/length": stats.mean_accepted_length}
    if not stats.drafts:
        notes |= dict.fromkeys(("drafts/accepted", "drafts/length"), "no tokens were drafted")
    metrics["peak_memory_mib"] = peak_memory_mib()
    if not prompt:
        notes["prefix_hit_rate"] = "no prompt tokens"
    if not blocks:
        notes["kv_use/peak"] = "the engine has no KV cache"


def peak_memory_mib() -> float:
    """This process's largest resident set so far.

    On Linux the kernel's ``VmHWM``, because ``ru_maxrss`` there also holds what the launching process had at the fork:
    a small process started from a large one would show the large one's memory. Elsewhere ``ru_maxrss``, which counts
    KiB, on macOS bytes.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
