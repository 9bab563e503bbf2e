"""SiLU-gated product on the CPU."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels.cpu.numeric import LOG2E, PARALLEL, exp2, narrow, widen


@numba.njit(**PARALLEL)
def silu_mul(gate_up: Any, out: Any) -> None:
    """out = silu(gate) * up, where gate_up [tokens, 2 * n] holds gate first; float32 or bfloat16 bits."""
    tokens, width = out.shape
    one = np.float32(1.0)
    for t in numba.prange(tokens):
        for i in range(width):
            gate = widen(gate_up[t, i])
            silu = gate / (one + exp2(-gate * LOG2E))
            out[t, i] = narrow(silu * widen(gate_up[t, width + i]), out)
