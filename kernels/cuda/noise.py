# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Gumbel noise inside of kernels: the words of ``kernels.noise``, to the bit."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _philox(seed, position, counter):
    zero = counter * 0
    place = (position & 0xFFFFFFFF).to(tl.uint32) + zero.to(tl.uint32)
    return tl.philox(seed, counter, place, zero, zero)


@triton.jit
def _gumbel(words):
    uniform = tl.minimum((words.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    # -log(1 - u): near 0, where the largest noise comes from, by its series, which keeps every bit of u.
    series = uniform * (1.0 + uniform * (0.5 + uniform * (0.33333334 + uniform * 0.25)))
    return -tl.log(tl.where(uniform < 0.0009765625, series, -tl.log(1.0 - uniform)))


@triton.jit
def gumbel_noise(seed, position, start, CHUNK: tl.constexpr):
    """Noise of tokens start:start + CHUNK, as in ``kernels.noise``: Philox word token % 4 of counter token // 4."""
    a, b, c, d = _philox(seed, position, start // 4 + tl.arange(0, CHUNK // 4))
    return _gumbel(tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [CHUNK]))


@triton.jit
def gumbel_noise_at(seed, position, token):
    """Noise of single tokens."""
    a, b, c, d = _philox(seed, position, token // 4)
    word = token % 4
    return _gumbel(tl.where(word < 2, tl.where(word == 0, a, b), tl.where(word == 2, c, d)))
