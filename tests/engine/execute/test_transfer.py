"""Arrays that travel together arrive as they were, each where every kernel may read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.execute.draw_numbers import columns
from engine.execute.transfer import ALIGNED, Parcel

CPU = torch.device("cpu")


def test_every_part_arrives_as_it_was() -> None:
    draw = np.random.default_rng(1)
    rows = [draw.integers(-(2**31), 2**31, 7).astype(np.int32) for _ in range(3)]
    parts: list[Any] = [
        draw.integers(-(2**62), 2**62, 5), np.zeros(0, np.int32), draw.normal(size=(2, 3)).astype(np.float32), rows,
        draw.integers(0, 9, (4, 6)).T,
    ]  # fmt: skip
    parcel = Parcel()
    numbers = [parcel.add(part) for part in parts]
    rows[1][:] = 5  # read when it is sent
    parcel.send(CPU)
    for number, part in zip(numbers, parts, strict=True):
        wanted = np.array(part)
        got = parcel[number]
        assert np.array_equal(got.numpy(), wanted)
        assert got.numpy().dtype == wanted.dtype
        assert got.data_ptr() % ALIGNED == 0


@pytest.mark.parametrize("length", [1, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_columns_begin_aligned(length: int, dtype: type[np.generic]) -> None:
    values = [[i + 0.0 for i in range(length)], [7.0] * length]
    matrix = columns(values, dtype)
    assert matrix[:, :length].tolist() == values
    assert (matrix[1:].ctypes.data - matrix.ctypes.data) % ALIGNED == 0
