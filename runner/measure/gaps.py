"""ITL: the gaps between a request's outputs, whose number is that of all tokens: counted in a fixed number of bins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from runner.measure.definitions import MINIMUM_SAMPLES, PERCENTILES
from runner.measure.latency import without_error
from runner.measure.requests_file import RequestsFile

LEAST, MOST = 1e-7, 1e5  # seconds
RATIO = 1.001  # of neighbouring edges, and so the precision of a percentile
_EDGES = np.geomspace(LEAST, MOST, int(np.ceil(np.log(MOST / LEAST) / np.log(RATIO))) + 1)


def gap_statistics(requests: RequestsFile) -> tuple[dict[str, float | None], dict[str, str], int]:
    """``itl_ms/*`` as ``runner.measure.latency.statistics`` gives it, percentiles to 0.1 %, and the number of gaps."""
    counts: npt.NDArray[np.int64] = np.zeros(len(_EDGES) + 1, np.int64)
    total, seconds = 0, 0.0
    for group in requests.groups("gaps_s", "finish_reason", "error"):
        gaps = np.asarray(pc.list_flatten(without_error(group).column("gaps_s")), dtype=np.float64)
        counts += np.bincount(np.searchsorted(_EDGES, gaps, side="right"), minlength=len(counts))
        total += gaps.size
        seconds += float(gaps.sum())
    values: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for statistic, needed in MINIMUM_SAMPLES.items():
        key = f"itl_ms/{statistic}"
        values[key] = None
        if total < needed:
            notes[key] = f"needs at least {needed} sample{'s' * (needed > 1)}, there are {total}"
        else:
            values[key] = 1e3 * (
                seconds / total if statistic == "mean" else _percentile(counts, PERCENTILES[statistic])
            )
    return values, notes, total


def _percentile(counts: npt.NDArray[np.int64], percent: float) -> float:
    """The middle of the bin that holds the percentile, in seconds."""
    place = int(np.searchsorted(np.cumsum(counts), percent / 100 * (counts.sum() - 1), side="right"))
    return float(np.sqrt(_EDGES[max(place - 1, 0)] * _EDGES[min(place, len(_EDGES) - 1)]))
