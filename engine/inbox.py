"""What other threads hand to a thread that waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue that one thread empties, all at once; while it waits it uses no processor time."""

    def __init__(self) -> None:
        self._filled = threading.Condition()
        self._items: list[T] = []
        self._closed = False

    def put(self, items: Iterable[T]) -> bool:
        """Add items; False where the inbox is closed, and nobody will take them."""
        with self._filled:
            if not self._closed:
                self._items += items
                self._filled.notify()
            return not self._closed

    def take(self, wait: bool) -> list[T]:
        """All items; with ``wait`` at least one, or none once the inbox is closed."""
        with self._filled:
            while wait and not self._items and not self._closed:
                self._filled.wait()
            items, self._items = self._items, []
            return items

    def close(self) -> None:
        """Take nothing more in."""
        with self._filled:
            self._closed = True
            self._filled.notify()

    @property
    def closed(self) -> bool:
        """Whether nothing more comes."""
        return self._closed
