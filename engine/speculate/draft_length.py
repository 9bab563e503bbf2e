"""How many drafts a request is worth: as many as were right of late."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_PAUSE = 64  # tokens


@dataclass(slots=True)
class DraftLength:
    """A request's next number of drafts, all integers: it follows from what was drafted and accepted alone.

    All right: twice as many next time, up to ``most``. Some: one more than were right. None: one, after a pause of so
    many tokens without drafts as doubles with every failure in a row. So where drafts are never right, they soon come
    once in ``LONGEST_PAUSE`` tokens.
    """

    most: int
    length: int = 0
    failures: int = 0
    resumes: int = 0

    def __post_init__(self) -> None:
        self.length = self.most

    def drafts(self, produced: int) -> int:
        """How many drafts the request should have, with ``produced`` output tokens."""
        return self.length if produced >= self.resumes else 0

    def learn(self, drafted: int, accepted: int, produced: int) -> None:
        """Of ``drafted`` tokens ``accepted`` were right; the output now has ``produced`` tokens."""
        if accepted == 0:
            self.failures += 1
            self.length = 1
            self.resumes = produced + min(LONGEST_PAUSE, 1 << self.failures) - 1
            return
        self.failures = 0
        self.length = min(self.most, 2 * drafted if accepted == drafted else accepted + 1)
