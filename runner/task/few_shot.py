"""Worked examples before each row's own prompt: declared once, rendered once, the same text for every row."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from runner.config.sections import FewShotSection
from runner.dataset.files import find_files
from runner.dataset.jsonl import JsonlSource
from runner.dataset.rows import Malformed
from runner.errors import ConfigError
from runner.task.template import PromptTemplate, RowError

KEY = "prompt.few_shot"


def examples(section: FewShotSection, question: PromptTemplate) -> list[tuple[str, str]]:
    """Question and answer of each example: the prompt's own template over its columns, and ``few_shot.answer``.

    Raises:
        ConfigError: there is no example, one cannot be read, or a template needs a column that one lacks.
    """
    answer = PromptTemplate(f"{KEY}.answer", section.answer)
    found = []
    for number, columns in enumerate(islice(_rows(section), section.limit)):
        try:
            found.append((question.render(columns), answer.render(columns)))
        except RowError as error:
            raise ConfigError(f"{KEY}: example {number}: {error}") from None
    if not found:
        raise ConfigError(f"{KEY} has no examples")
    return found


def _rows(section: FewShotSection) -> list[Mapping[str, Any]]:
    if section.path is None:
        return list(section.rows)
    rows = []
    for record in JsonlSource(tuple(find_files(section.path, f"{KEY}.path"))).read():
        if isinstance(record, Malformed):
            raise ConfigError(f"{KEY}: {record.error}")
        rows.append(record.columns)
    return rows
