"""Rows of one width on the device, given out to requests and taken back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from engine.execute.transfer import Parcel

FIRST_ROWS = 4  # a pool starts with so many rows


class Pool:
    """Rows of one width, given out and taken back; grows by doubling."""

    def __init__(self, width: int, dtype: torch.dtype, fill: float, device: torch.device) -> None:
        self.rows = torch.full((0, width), fill, dtype=dtype, device=device)
        self._fill = fill
        self._free: list[int] = []

    def take(self) -> int:
        """A row; what stands in it is whatever its last owner left."""
        if not self._free:
            count, width = self.rows.shape
            more = max(count, FIRST_ROWS)
            self.rows = torch.cat((self.rows, self.rows.new_full((more, width), self._fill)))
            self._free = list(range(count + more - 1, count - 1, -1))
        return self._free.pop()

    def give_back(self, row: int) -> None:
        """Row ``row`` may be given to somebody else."""
        self._free.append(row)

    def widen(self, width: int) -> None:
        """Make rows at least so wide; what they hold stays at their right end."""
        count, old = self.rows.shape
        if width > old:
            self.rows = torch.cat((self.rows.new_full((count, width - old), self._fill), self.rows), 1)


class NewRows:
    """What rows of a pool are to hold: one value each, and others in some of their cells."""

    def __init__(self) -> None:
        self._fills: dict[int, float] = {}
        self._cells: list[tuple[int, Mapping[int, float]]] = []
        self._numbers: tuple[int, ...] = ()

    def add(self, row: int, fill: float, cells: Mapping[int, float]) -> None:
        """All of the row holds ``fill``, but for ``cells``: values by column."""
        self._fills[row] = fill
        self._cells.append((row, cells))

    def __bool__(self) -> bool:
        return bool(self._fills)

    def pack(self, parcel: Parcel, dtype: type[np.generic]) -> None:
        """Put everything into a parcel; ``dtype`` is the pool's."""
        rows = np.fromiter(self._fills, np.int64)
        fills = np.array([*self._fills.values()], dtype)
        owners = np.repeat([row for row, _ in self._cells], [len(cells) for _, cells in self._cells]).astype(np.int64)
        columns = np.array([column for _, cells in self._cells for column in cells], np.int64)
        values = np.array([value for _, cells in self._cells for value in cells.values()], dtype)
        self._numbers = tuple(parcel.add(part) for part in (rows, fills, owners, columns, values))

    def write(self, pool: Pool, parcel: Parcel) -> None:
        """Once the parcel is sent: two launches, whatever the number of rows."""
        if self:
            rows, fills, owners, columns, values = (parcel[number] for number in self._numbers)
            pool.rows[rows] = fills[:, None]
            pool.rows[owners, columns] = values
