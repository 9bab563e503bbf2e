"""How often Python looks for reference cycles while requests run."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A step makes and drops a few objects per request, none of them in cycles: collecting at Python's usual pace, with all
# prompts on the heap, costs a quarter of a stream's time on the host.
RARELY = (100_000, 20, 100)


class RareCollection:
    """Collects rarely while anybody asks for it, then at the pace of before.

    The pace is one of the whole process, and so is this object: see ``RARE``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = gc.get_threshold()

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Collect rarely in the ``with`` block; several may be open at once, in any threads."""
        with self._lock:
            if self._users == 0:
                self._before = gc.get_threshold()
                gc.set_threshold(*RARELY)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    gc.set_threshold(*self._before)


RARE = RareCollection()
