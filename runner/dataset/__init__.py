"""Datasets: streams of rows, never held as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.config.dataset import (
    CsvDataset,
    DatasetSection,
    HfDataset,
    InlineDataset,
    JsonlDataset,
    ParquetDataset,
    TextDataset,
)
from runner.dataset.files import find_files
from runner.dataset.order import name_rows, refuse_duplicates, shuffle, take
from runner.dataset.rows import BadRow, Row, Source
from runner.errors import ConfigError, listing, nearest

__all__ = ["BadRow", "Dataset", "Row", "open_dataset"]


@dataclass(frozen=True)
class Dataset:
    """A source with names, order and limit. Every iteration yields the same rows."""

    source: Source
    id_column: str | None
    limit: int | None
    shuffle_seed: int | None

    def iter_rows(self) -> Iterator[Row | BadRow]:
        """The rows to run, one at a time, in the order in which they are started."""
        rows = name_rows(self.source.read(), self.id_column)
        if self.id_column is not None:  # other ids are unique by construction
            rows = refuse_duplicates(rows)
        if self.shuffle_seed is not None:
            return shuffle(rows, self.shuffle_seed, self.limit)
        return take(rows, self.limit)

    def first_row(self) -> Row | None:
        """The first readable row as stored, or ``None`` if there are only unreadable ones.

        Raises:
            ConfigError: the dataset is empty, or its first row lacks the id column.
        """
        empty = True
        for row in name_rows(self.source.read(), None):
            empty = False
            if isinstance(row, Row):
                self._check_id_column(row)
                return row
        if empty:
            raise ConfigError(f"the dataset is empty: {self.source.describe()} has no rows")
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
        if count is None or self.limit is None:
            return count
        return min(count, self.limit)


def open_dataset(section: DatasetSection) -> Dataset:
    """The dataset that a section declares; nothing of it is read yet.

    Raises:
        ConfigError: it is not there.
    """
    id_column = getattr(section, "id_column", None)
    return Dataset(_source(section), id_column, section.limit, section.shuffle_seed)


def _source(section: DatasetSection) -> Source:
    if isinstance(section, JsonlDataset):
        from runner.dataset.jsonl import JsonlSource

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
    if isinstance(section, HfDataset):
        from runner.dataset.hub import open_hf

        return open_hf(section)
    from runner.dataset.synthetic import SyntheticSource

    return SyntheticSource(section)
