"""Prompt templates: Jinja over a row's columns, sandboxed, with undefined names as errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import SandboxedEnvironment

from runner.errors import ConfigError, listing, nearest


class RowError(Exception):
    """One row cannot be made into a prompt; the message says why."""


_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


class FixedText:
    """Text that is the same for every row, where a template could stand."""

    def __init__(self, text: str) -> None:
        self._text = text

    def check(self, columns: Mapping[str, Any]) -> None:
        """It needs no column."""

    def render(self, columns: Mapping[str, Any]) -> str:
        """The text."""
        return self._text


class PromptTemplate:
    """A compiled template. ``key`` is where it stands in the configuration, for messages.

    Raises:
        ConfigError: the template's syntax is wrong.
    """

    def __init__(self, key: str, source: str) -> None:
        self._key = key
        try:
            self._variables = meta.find_undeclared_variables(_ENVIRONMENT.parse(source))
            self._template: Template = _ENVIRONMENT.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"{key} is no Jinja template: {error.message} (line {error.lineno}): {source!r}"
            ) from None

    def check(self, columns: Mapping[str, Any]) -> None:
        """Refuse a template that names columns which the first row lacks, unless it says what to do without them.

        Raises:
            ConfigError: the message names the column and the nearest one.
        """
        missing = sorted(self._variables - set(columns))
        if not missing:
            return
        try:
            self._template.render(columns)
        except UndefinedError:
            raise ConfigError(
                f"{self._key} names the column {missing[0]!r}, which the first row does not have"
                f"{nearest(missing[0], columns)}\ncolumns: {listing(columns)}"
            ) from None
        except Exception:  # anything else is the row's own trouble and becomes its error record
            return

    def render(self, columns: Mapping[str, Any]) -> str:
        """The text for one row.

        Raises:
            RowError: a column is missing, or the template fails on this row's values.
        """
        try:
            text = self._template.render(columns)
            text.encode()
        except UnicodeEncodeError:
            raise RowError(f"{self._key} gives text that is no valid Unicode (a lone surrogate)") from None
        except Exception as error:  # a template may raise anything on odd values: one row's matter
            raise RowError(f"{self._key}: {error}") from None
        return text
