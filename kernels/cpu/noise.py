"""Philox and Gumbel noise inside of CPU kernels: the words of ``kernels.noise`` to the bit, its noise nearly."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels.cpu.numeric import FLAGS, from_bits, to_bits

# Distance of ``nearby_noise`` from ``kernels.noise.gumbel``: at most (the tests measure a tenth of it).
NOISE_ERROR = np.float32(1e-4)

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FACTOR_0, _FACTOR_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_STEP_0, _STEP_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LARGEST = np.float32(1 - 2.0**-24)
_LOG2 = np.float32(0.6931471805599453)


@numba.njit(inline="always", **FLAGS)
def philox(counter: Any, position: Any, key_0: Any, key_1: Any) -> Any:
    """The four words of a counter; everything is uint64 holding 32 bits."""
    c0, c1, c2, c3 = counter, position, np.uint64(0), np.uint64(0)
    for _ in range(10):
        first, second = _FACTOR_0 * c0, _FACTOR_1 * c2
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ key_0, second & _LOW, (first >> _HALF) ^ c3 ^ key_1, first & _LOW
        key_0, key_1 = (key_0 + _STEP_0) & _LOW, (key_1 + _STEP_1) & _LOW
    return c0, c1, c2, c3


@numba.njit(inline="always", **FLAGS)
def _log(x: Any) -> Any:
    """Natural logarithm of a normal float32: the exponent, and 2 artanh((m - 1) / (m + 1)) of the mantissa m."""
    bits = to_bits(x)
    shifted = bits - np.uint32(0x3F3504F3)  # of sqrt(1/2): mantissas from there to sqrt(2)
    exponent = np.int32(shifted) >> np.int32(23)
    m = from_bits(np.uint32(bits - (np.uint32(exponent) << np.uint32(23))))
    t = (m - np.float32(1.0)) / (m + np.float32(1.0))
    s = t * t
    series = np.float32(0.14285715) * s + np.float32(0.2)
    series = series * s + np.float32(0.33333334)
    series = series * s + np.float32(1.0)
    return np.float32(exponent) * _LOG2 + np.float32(2.0) * t * series


@numba.njit(inline="always", **FLAGS)
def nearby_noise(word: Any) -> Any:
    """Gumbel noise of a word, within NOISE_ERROR of the exact one."""
    u = min((np.float32(word) + np.float32(0.5)) * np.float32(2.0**-32), _LARGEST)
    series = np.float32(0.25) * u + np.float32(0.33333334)
    series = series * u + np.float32(0.5)
    series = (series * u + np.float32(1.0)) * u
    rare = series if u < np.float32(0.02) else -_log(np.float32(1.0) - u)
    return -_log(rare)
