"""Datasets of a section's keys, and what they give."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from runner.config.dataset import DatasetSection
from runner.dataset import BadRow, Dataset, Row, open_dataset


def opened(**section: Any) -> Dataset:
    """The dataset that a section declares."""
    return open_dataset(TypeAdapter(DatasetSection).validate_python(section))


def columns(dataset: Dataset) -> list[dict[str, Any]]:
    """Of its good rows."""
    return [dict(row.columns) for row in dataset.iter_rows() if isinstance(row, Row)]


def errors(dataset: Dataset) -> list[str]:
    """Of its bad rows."""
    return [row.error for row in dataset.iter_rows() if isinstance(row, BadRow)]
