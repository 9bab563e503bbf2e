"""SIGINT and SIGTERM, as an exception at a moment when nothing can be lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from runner.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handles both signals while it is entered. Outside of ``shielded`` blocks the first one raises ``Interrupted``
    there and then, also in the midst of an engine step; in them it waits for their end. The second one ends the
    process.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._shielded = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + number)  # the journal needs no goodbye
        self._received = number
        sys.stderr.write("\nstopping: what is finished is being kept (once more to stop at once)\n")
        if not self._shielded:
            raise Interrupted(number)

    @property
    def pending(self) -> bool:
        """Whether a signal waits for the end of a shielded block."""
        return self._received is not None

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Put an interrupt off to the end of the block."""
        self._shielded += 1
        try:
            yield
        finally:
            self._shielded -= 1
        if self._received is not None and not self._shielded:
            raise Interrupted(self._received)
