"""What attention kernels cut their work by: the model's heads, and the type of its keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SHARED_ROWS = 128  # query rows per program of shared-prefix attention, where they fit


@dataclass(frozen=True)
class Geometry:
    """Of a model, or of a layer's tensors. Results depend on no property below.

    With a single key tile on its way, a program of so many rows needs at most 99 KB of shared memory, which every
    device from compute capability 8.0 has (tests/kernels/test_shared_memory.py compiles them).
    """

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, query: torch.Tensor, keys: torch.Tensor) -> Geometry:
        """Of query [tokens, heads, head_dim] and a layer's keys [blocks, block_size, kv_heads, head_dim]."""
        return cls(query.shape[1], keys.shape[2], query.shape[2], query.dtype)

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.heads // self.kv_heads

    @property
    def prefill_rows(self) -> int:
        """Query rows (token, head) per program of prefill attention, 16 a warp."""
        if 64 < self.head_dim <= 128 and self.dtype.itemsize == 2:
            return 128
        return self._rows_that_fit

    @property
    def prefill_tokens(self) -> int:
        """Query tokens per program of prefill attention."""
        return self.prefill_rows // self.group

    @property
    def shared_rows(self) -> int:
        """Query rows per program of shared-prefix attention, 16 a warp."""
        return SHARED_ROWS if self.head_dim * self.dtype.itemsize <= 256 else self._rows_that_fit

    @property
    def shared_sequences(self) -> int:
        """Sequences per program of shared-prefix attention."""
        return self.shared_rows // self.group

    @property
    def _rows_that_fit(self) -> int:
        return 64 if self.head_dim * self.dtype.itemsize <= 512 else 32
