"""How many drafts a request is worth: about as many as were right of late."""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 3  # failures in a row before the first pause
LONGEST_PAUSE = 16  # tokens


@dataclass(slots=True)
class DraftLength:
    """A request's next number of drafts, all integers: it follows from what was drafted and accepted alone.

    All right: as many as are allowed. Some: two more than were right. None: half as many, and from the third such
    failure in a row on a pause, of so many tokens without drafts as doubles with every further one. So where drafts are
    never right, a single one comes every ``LONGEST_PAUSE`` tokens. Chosen on summaries (docs/performance.md).
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
        if accepted:
            self.failures = 0
            self.length = self.most if accepted == drafted else min(self.most, accepted + 2)
            return
        self.failures += 1
        self.length = max(1, self.length // 2)
        if self.failures >= PATIENCE:
            self.resumes = produced + min(LONGEST_PAUSE, 2 << self.failures - PATIENCE) - 1
