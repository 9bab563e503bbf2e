"""Whether two runs, or two sets of repeats, differ: from their folders' files alone."""

from runner.compare.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
