"""Datasets: streams of rows, never held as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from runner.config.dataset import (
    CsvDataset,
    DatasetSection,
    HfDataset,
    InlineDataset,
    JsonlDataset,
    OpenAiBatchDataset,
    ParquetDataset,
    ShardSection,
    ShareGptDataset,
    TextDataset,
)
from runner.dataset.files import find_files
from runner.dataset.filter import RowFilter
from runner.dataset.jsonl import JsonlSource
from runner.dataset.order import name_rows, refuse_duplicates, sample, shuffle, take
from runner.dataset.rows import BadRow, Row, Source
from runner.errors import ConfigError, listing, nearest

__all__ = ["BadRow", "Dataset", "Row", "open_dataset"]


WHOLE = ShardSection()


@dataclass(frozen=True)
class Dataset:
    """A source with names, choice, order and limit. Every iteration yields the same rows."""

    source: Source
    id_column: str | None
    limit: int | None
    shuffle_seed: int | None
    filter: RowFilter | None = None
    sample: int | None = None
    sample_seed: int = 0
    shard: ShardSection = WHOLE

    def iter_rows(self) -> Iterator[Row | BadRow]:
        """The rows to run, one at a time, in the order in which they are started."""
        rows = name_rows(self.source.read(), self.id_column)
        if self.id_column is not None:  # other ids are unique by construction
            rows = refuse_duplicates(rows)
        if self.filter is not None:
            rows = self.filter.passed(rows)
        if self.sample is not None:
            rows = sample(rows, self.sample, self.sample_seed)
        if self.shard.count > 1:
            rows = islice(rows, self.shard.index, None, self.shard.count)
        if self.shuffle_seed is not None:
            return shuffle(rows, self.shuffle_seed, self.limit)
        return take(rows, self.limit)

    def first_row(self) -> Row | None:
        """The first readable row as stored that the filter lets pass, or ``None`` if there are only unreadable ones.

        Raises:
            ConfigError: the dataset is empty, the filter lets no row pass, or the first row lacks the id column or one
                that the filter names.
        """
        empty = True
        checked = bad = False
        for row in name_rows(self.source.read(), None):
            empty = False
            if isinstance(row, Row) and not checked:
                self._check_id_column(row)
                if self.filter is not None:
                    self.filter.check(row.columns)
                checked = True
            passed = row if self.filter is None else self.filter.apply(row)
            if isinstance(passed, Row):
                return passed
            bad = bad or passed is not None
        if empty:
            raise ConfigError(f"the dataset is empty: {self.source.describe()} has no rows")
        if not bad and self.filter is not None:
            raise ConfigError(f"dataset.filter={self.filter.source!r} lets no row of {self.source.describe()} pass")
        return None

    def _check_id_column(self, row: Row) -> None:
        if self.id_column is not None and self.id_column not in row.columns:
            raise ConfigError(
                f"dataset.id_column={self.id_column!r} is no column: the first row has {listing(row.columns)}"
                f"{nearest(self.id_column, row.columns)}"
            )

    def count(self) -> int | None:
        """About how many rows will be started."""
        count = self.source.count()
        if count is None or self.filter is not None:
            return None
        count = count if self.sample is None else min(count, self.sample)
        count = len(range(self.shard.index, count, self.shard.count))
        return count if self.limit is None else min(count, self.limit)


def open_dataset(section: DatasetSection) -> Dataset:
    """The dataset that a section declares; nothing of it is read yet.

    Raises:
        ConfigError: it is not there.
    """
    id_column = getattr(section, "id_column", None)
    return Dataset(
        _source(section),
        id_column,
        section.limit,
        section.shuffle_seed,
        None if section.filter is None else RowFilter(section.filter),
        section.sample,
        section.sample_seed,
        section.shard,
    )


def _source(section: DatasetSection) -> Source:
    if isinstance(section, JsonlDataset):
        return JsonlSource(tuple(find_files(section.path)))
    if isinstance(section, CsvDataset):
        from runner.dataset.table import CsvSource

        return CsvSource(tuple(find_files(section.path)), section.delimiter)
    if isinstance(section, ParquetDataset):
        from runner.dataset.table import ParquetSource

        return ParquetSource(tuple(find_files(section.path)))
    if isinstance(section, TextDataset):
        from runner.dataset.text import open_text

        return open_text(section.path, section.pattern, section.unit)
    if isinstance(section, InlineDataset):
        from runner.dataset.inline import InlineSource

        return InlineSource(section.rows)
    if isinstance(section, ShareGptDataset):
        from runner.dataset.sharegpt import ShareGptSource

        return ShareGptSource(tuple(find_files(section.path)))
    if isinstance(section, OpenAiBatchDataset):
        from runner.dataset.openai_batch import OpenAiBatchSource

        return OpenAiBatchSource(JsonlSource(tuple(find_files(section.path))))
    if isinstance(section, HfDataset):
        from runner.dataset.hub import open_hf

        return open_hf(section)
    from runner.dataset.materialize import SyntheticSource

    return SyntheticSource(section)
