"""Leading blocks that the decoding sequences of a step share, told to the device when they change."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.execute.cascade_groups import cascade_groups
from engine.execute.transfer import to_device
from engine.schedule.plan import Slice
from engine.schedule.request import Request
from kernels.cuda.geometry import Geometry
from kernels.cuda.numerics import PIECE
from kernels.cuda.shared_prefix import SharedPrefixes, share_prefixes

LEAST = 8  # sequences that share: for fewer, the launch of one more kernel costs what it saves
STALE = 64  # steps after which contexts have grown enough to look again


class SharedBlocks:
    """Owns the device's description of who shares what; captured graphs read it in place."""

    def __init__(self, max_seqs: int, max_len: int, block_size: int, geometry: Geometry, device: torch.device) -> None:
        """Room for batches of ``max_seqs`` sequences, padding included; ``geometry`` is the model's."""
        self._block_size = block_size
        self._geometry = geometry
        self._max_seqs = max_seqs
        self._capacity = max(1, max_seqs * (max_len // PIECE) // LEAST)
        self._device = device
        self._numbers = torch.zeros(3 * self._capacity + 2 * max_seqs + 1, dtype=torch.int32, device=device)
        items, members, pieces, counts = self._numbers.split([3 * self._capacity, max_seqs, max_seqs, 1])
        self.prefixes = SharedPrefixes(items.view(-1, 3), members, counts, pieces)
        self._requests: list[Request] = []
        self._age = 0
        self._found = False

    def follow(self, decoding: Sequence[Slice]) -> bool:
        """Look for shared leading blocks where the batch has changed; whether there are any."""
        requests = [part.request for part in decoding]
        self._age += 1
        if requests == self._requests and self._age < STALE:
            return self._found
        self._requests, self._age = requests, 0
        step = PIECE // self._block_size
        shareable = [(part.stop - 1) // PIECE * step for part in decoding]
        groups = cascade_groups([request.blocks for request in requests], shareable, step, LEAST)
        self._found = bool(groups)
        if groups:
            self._send([(members, blocks * self._block_size) for members, blocks in groups])
        return self._found

    def _send(self, groups: Sequence[tuple[list[int], int]]) -> None:
        host = share_prefixes(groups, self._max_seqs, self._capacity, self._geometry, torch.device("cpu"))
        parts = (host.items.view(-1), host.members, host.pieces, host.counts)
        self._numbers.copy_(to_device(torch.cat(parts).numpy(), self._device))
