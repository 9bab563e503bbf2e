"""Which rows are taken: a Jinja expression over a row's columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.sandbox import SandboxedEnvironment

from runner.dataset.rows import BadRow, Row
from runner.errors import ConfigError, listing, nearest

_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined)


class RowFilter:
    """A compiled expression, such as ``topic == 'news' and text|length > 100``.

    Raises:
        ConfigError: it is no expression.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            self._names = meta.find_undeclared_variables(_ENVIRONMENT.parse("{{ (" + source + ") }}"))
            self._expression = _ENVIRONMENT.compile_expression(source, undefined_to_none=False)
        except TemplateSyntaxError as error:
            raise ConfigError(f"dataset.filter={source!r} is no Jinja expression: {error.message}") from None

    def check(self, columns: Mapping[str, Any]) -> None:
        """Refuse an expression that names columns which the first row lacks.

        Raises:
            ConfigError: the message names the column and the nearest one.
        """
        missing = sorted(self._names - set(columns) - set(_ENVIRONMENT.globals))
        if missing and isinstance(self.apply(Row(0, "", columns)), BadRow):
            raise ConfigError(
                f"dataset.filter names the column {missing[0]!r}, which the first row does not have"
                f"{nearest(missing[0], columns)}\ncolumns: {listing(columns)}"
            )

    def apply(self, row: Row | BadRow) -> Row | BadRow | None:
        """The row if it passes, ``None`` if not. A row on which the expression fails is a bad row: it is not known
        whether it was wanted."""
        if isinstance(row, BadRow):
            return row
        try:
            return row if self._expression(**row.columns) else None
        except Exception as error:  # an expression may raise anything on odd values: one row's matter
            return BadRow(row.index, row.id, f"dataset.filter: {error}")

    def passed(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        """The rows that pass, and the bad ones."""
        for row in rows:
            found = self.apply(row)
            if found is not None:
                yield found
