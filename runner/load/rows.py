"""Which of the dataset's rows a load takes, and what earlier sessions did of them."""

from __future__ import annotations

from dataclasses import replace

from runner.config.load import OfflineLoad, OnlineLoad, OpenLoad, SaturationLoad, TimedLoad
from runner.dataset import Dataset
from runner.errors import ConfigError
from runner.journal import Entry, Journal
from runner.load.arrivals import arrivals_before
from runner.load.goodput import is_good
from runner.load.search import Tally, tallies

Load = OnlineLoad | OfflineLoad


def within_load(dataset: Dataset, load: Load) -> Dataset:
    """The dataset with no more rows than the warm-up takes and arrive in ``load.duration_s``: a schedule decides that
    beforehand.

    Raises:
        ConfigError: the dataset is too small for the load.
    """
    if not isinstance(load, OnlineLoad):
        return dataset
    rows = dataset.count()
    if rows is not None and rows <= load.warmup:
        raise ConfigError(
            f"load.warmup={load.warmup} leaves nothing to measure: the dataset has {rows} rows"
            f"{'' if dataset.limit is None else f' (dataset.limit={dataset.limit})'}"
        )
    if isinstance(load, SaturationLoad):
        needed = load.warmup + load.most_trials * load.trial_requests
        if rows is not None and rows < needed:
            raise ConfigError(
                f"load=saturation takes up to {load.most_trials} trials of load.trial_requests={load.trial_requests}, "
                f"with load.warmup={load.warmup} {needed} rows, and the dataset has {rows}: fewer or smaller trials "
                f"(a coarser load.resolution, load.trial_requests), or more rows"
            )
    if not isinstance(load, OpenLoad) or load.duration_s is None:
        return dataset
    arrive = arrivals_before(load, load.duration_s)
    if arrive == 0:
        raise ConfigError(f"load.duration_s={load.duration_s:g} at load.rate={load.rate:g} has no request")
    most = load.warmup + arrive
    return replace(dataset, limit=most if dataset.limit is None else min(most, dataset.limit))


def earlier_trials(journal: Journal, load: Load) -> dict[int, Tally]:
    """What earlier sessions did of a search's trials; empty for other loads."""
    if not isinstance(load, SaturationLoad):
        return {}
    names = [name for name in Entry._fields if name != "record"]
    entries = (Entry(record="", **dict(zip(names, row, strict=True))) for row in journal.requests())
    return tallies((entry.phase, is_good(entry, load.goodput.declared)) for entry in entries)


def rows_of_load(seen: int, load: Load, session: int) -> int | None:
    """How many rows the run has to have records of, by what the dataset gave in this session.

    ``None`` where that cannot be told: a load that ends by the clock or by its results gives a resumed session rows in
    another number than the one before had.
    """
    by_clock = isinstance(load, TimedLoad) and not isinstance(load, OpenLoad) and load.duration_s is not None
    return None if session > 1 and (by_clock or isinstance(load, SaturationLoad)) else seen
