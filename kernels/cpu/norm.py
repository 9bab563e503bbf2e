"""RMSNorm with the residual addition folded in, on the CPU."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels.cpu.numeric import FLAGS, LANES, PARALLEL, narrow, widen


@numba.njit(**FLAGS)
def inverse_rms(values: Any, row: int, eps: Any) -> Any:
    """1 / sqrt(mean(values[row] ** 2) + eps), summed in 16 lanes and then over the lanes.

    ``values`` is float32 [rows, n / 16, 16].
    """
    lanes = np.zeros(LANES, np.float32)
    for i in range(values.shape[1]):
        for lane in range(LANES):
            lanes[lane] += values[row, i, lane] * values[row, i, lane]
    total = np.float32(0.0)
    for lane in range(LANES):
        total += lanes[lane]
    return np.float32(1.0) / np.sqrt(total / np.float32(values.shape[1] * LANES) + eps)


@numba.njit(**PARALLEL)
def add_rms_norm(x: Any, residual: Any, weight: Any, eps: float, out: Any) -> None:
    """residual += x; out = residual / rms(residual) * weight.

    Args:
        x: [tokens, hidden], float32 or bfloat16 bits.
        residual: [tokens, hidden], updated in place, of x's type.
        weight: [hidden] float32.
        eps: added to the mean square.
        out: [tokens, hidden].
    """
    tokens, hidden = x.shape
    epsilon = np.float32(eps)
    wide = np.empty((tokens, hidden), np.float32)
    lanes = wide.reshape(tokens, hidden // LANES, LANES)
    for t in numba.prange(tokens):
        for i in range(hidden):
            total = narrow(widen(x[t, i]) + widen(residual[t, i]), residual)
            residual[t, i] = total
            wide[t, i] = widen(total)
        factor = inverse_rms(lanes, t, epsilon)
        for i in range(hidden):
            out[t, i] = narrow(wide[t, i] * factor * weight[i], out)
