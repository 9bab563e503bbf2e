"""Matrix products with weights: packed once for the CPU, row results independent of the number of rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels.activation import silu_mul

# oneDNN takes another route for a single row, with another order of summation; from two rows on, rows of a packed
# product were equal to the bit for every number of rows tried (docs/performance.md). Four leaves a margin.
MIN_ROWS = 4


class PackedLinear:
    """y = x W^T + b with a fixed W.

    On the CPU, W is reordered once into oneDNN's blocked layout, which is 1.3 to 2.5 times faster than reordering it in
    every call. The operators behind that are private to torch; where they are missing, plain ``linear`` serves.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Take the weight [out_features, in_features] over; ``bias`` is [out_features]."""
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self._bias = bias
        self._packed = _pack(weight)
        self._weight = None if self._packed is not None else weight

    @property
    def packed(self) -> bool:
        """Whether the weight is in oneDNN's layout."""
        return self._packed is not None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [rows, in_features] -> [rows, out_features]."""
        if self._packed is None:
            assert self._weight is not None
            if x.is_cuda:
                from kernels.cuda import gemm

                return gemm.linear(x, self._weight, self._bias)
            return F.linear(x, self._weight, self._bias)
        rows = x.shape[0]
        if rows < MIN_ROWS:
            x = F.pad(x, (0, 0, 0, MIN_ROWS - rows))
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return result[:rows]

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up, where gate and up are the halves of this product: [rows, out_features / 2]."""
        if x.is_cuda and self._packed is None:
            from kernels.cuda import gemm

            assert self._weight is not None
            return gemm.gated_linear(x, self._weight, self._bias, "silu")
        return silu_mul(self(x))


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return None
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 8)
    return packed
