"""How the tokens of a step lie in its tensors, and the numbers that tell the device so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from engine.execute.batch_rows import BatchRows
from engine.schedule.plan import Slice, StepPlan
from kernels.cuda.geometry import Geometry
from kernels.cuda.options import kernel_options
from kernels.cuda.prefill import RECORD, SLOTS, prefill_tiles
from kernels.cuda.step_inputs import aligned

Ints = npt.NDArray[np.int32]
Numbers = TypeVar("Numbers", Ints, torch.Tensor)
BUCKETS = (1, 2, 4, 8, 16, 64, 128, 192, 256, 320, 384, 512, 640, 768, 1024)
DRAWN = -1  # in place of a token id: the token that the device drew last for the row
NOTHING = -1  # in place of a token's number: the row draws nothing


@dataclass(frozen=True)
class StepShape:
    """Sizes of a step's tensors, padding included; one graph is captured for each.

    ``rows``: tokens that are drawn; no more than those decode, and they come first among the tokens. ``tiles``:
    programs of prefill attention, 0 where the step only decodes, so that every token is a row. ``filtered``: some row
    has top_k, top_p or min_p. ``split``: some of those programs are pieces of one. ``shared``: some decoding sequences
    share leading blocks.
    """

    tokens: int
    rows: int
    tiles: int
    filtered: bool
    split: bool = False
    shared: bool = False

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where each input lies in one buffer of int32."""
        lengths = {"positions": self.tokens, "owners": self.tokens}
        if self.tiles:
            lengths |= {"ids": self.tokens, "ends": self.rows, "decoding": 1, "tiles": RECORD * self.tiles}
        begins = accumulate(map(aligned, lengths.values()), initial=0)
        return {name: slice(begin, begin + lengths[name]) for name, begin in zip(lengths, begins, strict=False)}

    @property
    def size(self) -> int:
        """Numbers of the buffer."""
        *_, last = self.places.values()
        return int(last.stop)


@dataclass(frozen=True)
class StepLayout:
    """A step on the host: its shape, its numbers [shape.size], and the slices that its rows are for."""

    shape: StepShape
    numbers: Ints
    sampling: Sequence[Slice]


def lay_out(
    plan: StepPlan, decoding: Sequence[Slice], others: Sequence[Slice], rows: BatchRows, geometry: Geometry,
    padded: bool,
) -> StepLayout:  # fmt: skip
    """Decoding sequences first, each with the token drawn last, then the slices of prompts and those with drafts.

    Args:
        plan: the step's.
        decoding: its slices of one token, which the device has.
        others: its slices whose tokens the host sends.
        rows: where the requests' state is.
        geometry: of the model.
        padded: round sizes up to those that are captured.
    """
    sampling = [*decoding, *(part for part in others if part.samples)]
    filtered = bool(rows.filtering) and any(part.request in rows.filtering for part in sampling)
    if not others:
        size = bucket_of(len(decoding)) if padded else len(decoding)
        shape = StepShape(size, size, 0, filtered)
        numbers = _padding(shape, rows.padding)
        _fill_tokens(named(numbers, shape), decoding, rows)
        return StepLayout(shape, numbers, sampling)
    tiles = _tiles(decoding, others, rows, geometry)
    drawn = sum(plan.rows(part) for part in sampling) if plan.drafts else len(sampling)
    shape = _mixed_shape(decoding, others, drawn, tiles, filtered, geometry, padded)
    numbers = _padding(shape, rows.padding)
    inputs = named(numbers, shape)
    _fill_tokens(inputs, [*decoding, *others], rows)
    _fill_prompts(inputs, plan, len(decoding), others)
    inputs["tiles"][: tiles.size] = tiles.reshape(-1)
    return StepLayout(shape, numbers, sampling)


def named(numbers: Numbers, shape: StepShape) -> dict[str, Numbers]:
    """Views by name of a step's numbers [shape.size] int32, on the host or on the device."""
    return {name: numbers[place] for name, place in shape.places.items()}


def bucket_of(count: int) -> int:
    """The captured step size that serves ``count`` tokens.

    Up to 16 rows our own products serve. Beyond, sizes are those at which cuBLAS was not slower than at the next
    greater one (docs/performance.md): a padded row costs less than an odd shape, and fewer graphs are captured.
    """
    return next((size for size in BUCKETS if count <= size), -(-count // 256) * 256)


def row_bucket(count: int) -> int:
    """The captured number of rows beside prompts: none, or at least 16."""
    return bucket_of(max(count, 16)) if count else 0


def _mixed_shape(
    decoding: Sequence[Slice], others: Sequence[Slice], rows: int, tiles: Ints, filtered: bool,
    geometry: Geometry, padded: bool,
) -> StepShape:  # fmt: skip
    tokens, count = len(decoding) + sum(part.stop - part.start for part in others), len(tiles)
    split = bool(tiles[0, -1])
    if padded:
        tokens, more = bucket_of(tokens), SLOTS if split else 0
        few = tokens // geometry.prefill_tokens + 16
        rows, count = min(row_bucket(rows), tokens), (few if count <= few + more else tokens) + more
    return StepShape(tokens, rows, count, filtered, split)


def _padding(shape: StepShape, row: int) -> Ints:
    """The numbers of a step without a token: nobody's row, no programs, no ends."""
    numbers = np.zeros(shape.size, np.int32)
    inputs = named(numbers, shape)
    inputs["owners"][:] = row
    if shape.tiles:
        inputs["ends"][:] = NOTHING
    return numbers


def _fill_tokens(inputs: dict[str, Ints], parts: Sequence[Slice], rows: BatchRows) -> None:
    """Each token's position, and its request's row."""
    if all(part.stop - part.start == 1 for part in parts):
        inputs["positions"][: len(parts)] = [part.start for part in parts]
        inputs["owners"][: len(parts)] = [rows[part.request].number for part in parts]
        return
    at = 0
    for part in parts:
        length = part.stop - part.start
        inputs["positions"][at : at + length] = np.arange(part.start, part.stop)
        inputs["owners"][at : at + length] = rows[part.request].number
        at += length


def _fill_prompts(inputs: dict[str, Ints], plan: StepPlan, decoding: int, others: Sequence[Slice]) -> None:
    """Tokens that the host knows, and where the tokens stand that the next ones are drawn from."""
    at = decoding
    inputs["decoding"][0] = at
    inputs["ids"][:at] = DRAWN
    inputs["ends"][:at] = np.arange(at)
    row = at
    for part in others:
        length = part.stop - part.start
        inputs["ids"][at : at + length] = plan.token_ids(part)
        at += length
        drawn = plan.rows(part)
        inputs["ends"][row : row + drawn] = np.arange(at - drawn, at)
        row += drawn


def _tiles(decoding: Sequence[Slice], others: Sequence[Slice], rows: BatchRows, geometry: Geometry) -> Ints:
    """Programs of prefill attention, [tiles, RECORD], with rows of the block tables in place of sequences."""
    starts = np.cumsum([len(decoding), *(part.stop - part.start for part in others)]).tolist()
    stops = [part.stop for part in others]
    slots = SLOTS if kernel_options().split_prefill else 0
    tiles: Ints = prefill_tiles(starts, stops, geometry, slots).numpy()
    numbers = np.array([rows[part.request].number for part in others], np.int32)
    tiles[:, 0] = numbers[tiles[:, 0]]
    return tiles
