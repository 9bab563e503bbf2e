"""The kernels between logits and their draw, for ``benchmarks/kernels.py``; ``error`` 0 is: equal to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from benchmarks.kernel_cases import Shape
from kernels import bitmask
from kernels.cuda import bitmask as cuda_bitmask
from kernels.cuda import process_logits as cuda_process
from kernels.process_logits import LogitsEdits, reference

if TYPE_CHECKING:
    from benchmarks.kernels import Meter, Row


def processors(meter: Meter, shape: Shape) -> Iterator[Row]:
    """What comes between logits and their draw: rows copied, with and without a bias, and masks of grammars."""
    for rows in (1, 64):
        x = torch.randn(rows, shape.vocab, device="cuda").bfloat16()
        none, own = (torch.full((rows,), -1, device="cuda").int(), torch.arange(rows, device="cuda"))
        begins, nothing = torch.zeros(rows + 1, device="cuda").int(), own[:0]
        offsets, history = torch.randn(rows, shape.vocab, device="cuda"), own[:1, None]
        for name, states in (("plain", none), ("biased", own.int())):
            edits = LogitsEdits(
                own.int(), states, offsets, begins, nothing.int(), none, history, begins, nothing[:, None], nothing
            )
            error = float(not torch.equal(cuda_process.process_logits(x, edits), reference(x, edits)))
            work = lambda x=x, e=edits: cuda_process.process_logits(x, e)  # noqa: E731
            amount = 3 * x.nbytes + (offsets.nbytes if name == "biased" else 0)
            yield meter.row("process logits", shape, f"{rows} rows, {name}", work, amount, "copy_gbps", error)
        wide = x.float()
        for name, word in (("all allowed", -1), ("every 8th", 0x01010101), ("none of most", 0)):
            words = torch.full((rows, -(-shape.vocab // 32)), word, device="cuda", dtype=torch.int32)
            words[:, -1] = 1
            masked = wide.clone()
            cuda_bitmask.apply_bitmask(masked, own, words)
            equal = float(not torch.equal(masked, bitmask.reference(wide, words)))
            work = lambda m=masked, o=own, w=words: cuda_bitmask.apply_bitmask(m, o, w)  # noqa: E731
            amount = words.nbytes + int((masked == float("-inf")).sum()) * 4
            yield meter.row("bitmask", shape, f"{rows} rows, {name}", work, amount, "copy_gbps", equal)
            work = lambda m=wide, w=words: bitmask.reference(m, w)  # noqa: E731
            yield meter.row("bitmask in torch", shape, f"{rows} rows, {name}", work, amount, "copy_gbps")
