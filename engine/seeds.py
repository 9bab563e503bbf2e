"""Seeds of requests that name none: a pure function of the engine's seed and the request's index."""

from __future__ import annotations

_MASK = (1 << 64) - 1


def derive_seed(engine_seed: int, index: int) -> int:
    """A 63-bit seed for request ``index``; neighbouring indices give unrelated seeds.

    One round of SplitMix64 (Steele et al. 2014) over both numbers.
    """
    state = (engine_seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return (state ^ (state >> 31)) >> 1
