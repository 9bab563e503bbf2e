"""What requests add to their logits and rule out of them: Triton's kernel, the definition in torch, and plain loops."""

from __future__ import annotations

import random
from dataclasses import fields
from itertools import accumulate

import pytest
import torch

from kernels.cuda import drawn_tokens as cuda_drawn
from kernels.cuda import process_logits as cuda
from kernels.drawn_tokens import reference as add_drawn
from kernels.process_logits import NEVER, LogitsEdits, reference

STATES = 5


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def random_edits(vocab: int, rows: int, width: int, lists: int) -> LogitsEdits:
    """Lists of 0 to ``lists`` tokens and patterns; histories of few tokens, so that some patterns fit."""
    draw = random.Random(vocab + lists)
    banned = [[draw.randrange(vocab) for _ in range(draw.randint(0, lists))] for _ in range(rows)]
    counts = [draw.randint(0, lists) for _ in range(rows)]
    before = [
        [-1] * (width - n) + [draw.randrange(2) for _ in range(n)]
        for n in draw.choices(range(1, width + 1), k=sum(counts))
    ]
    offsets = torch.randn(STATES, vocab, generator=torch.Generator().manual_seed(1))
    offsets[0, ::3] = NEVER
    return LogitsEdits(
        sources=ints(*(draw.randrange(rows + 2) for _ in range(rows))),
        offset_rows=ints(*(draw.randrange(-1, STATES) for _ in range(rows))),
        offsets=offsets,
        token_begins=ints(0, *accumulate(map(len, banned))),
        tokens=ints(*(token for some in banned for token in some)),
        history_rows=ints(*(draw.randrange(STATES) for _ in range(rows))),
        history=torch.tensor([[draw.randrange(-1, 2) for _ in range(width)] for _ in range(STATES)]),
        pattern_begins=ints(0, *accumulate(counts)),
        before=torch.tensor(before, dtype=torch.int64).view(-1, width),
        last=torch.tensor([draw.randrange(vocab) for _ in range(sum(counts))], dtype=torch.int64),
    )


def plainly(logits: torch.Tensor, edits: LogitsEdits) -> torch.Tensor:
    """Row by row, entry by entry."""
    out = []
    for i, source in enumerate(edits.sources.tolist()):
        row = logits[source].float().clone()
        if edits.offset_rows[i] >= 0:
            row = row + edits.offsets[edits.offset_rows[i]]
        for entry in range(int(edits.token_begins[i]), int(edits.token_begins[i + 1])):
            row[edits.tokens[entry]] = NEVER
        recent = edits.history[edits.history_rows[i]].tolist()
        for entry in range(int(edits.pattern_begins[i]), int(edits.pattern_begins[i + 1])):
            if all(want in (-1, have) for want, have in zip(edits.before[entry].tolist(), recent, strict=True)):
                row[edits.last[entry]] = NEVER
        out.append(row)
    return torch.stack(out)


@pytest.mark.parametrize(
    ("vocab", "rows", "width", "lists"),
    [(61, 7, 1, 3), (5003, 5, 3, 150), (4097, 3, 8, 70), (1, 2, 2, 1), (300, 4, 2, 0)],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_every_edit(vocab: int, rows: int, width: int, lists: int, kind: torch.dtype, device: torch.device) -> None:
    edits = random_edits(vocab, rows, width, lists)
    logits = torch.randn(rows + 2, vocab + 16, generator=torch.Generator().manual_seed(2)).to(kind)[:, :vocab]
    before = logits.clone()
    wanted = plainly(logits, edits)
    there = LogitsEdits(**{field.name: getattr(edits, field.name).to(device) for field in fields(edits)})
    assert torch.equal(cuda.process_logits(logits.to(device), there).cpu(), wanted)
    assert torch.equal(reference(logits, edits), wanted)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_drawn_tokens_are_counted_and_kept(width: int, device: torch.device) -> None:
    """Some tokens known, some read from the device; rows without counts or history; the other rows untouched."""
    vocab, draw = 301, torch.Generator().manual_seed(width)
    drawn = torch.randint(0, vocab, (9,), generator=draw)
    rows = torch.tensor(
        [[8, 0, 3, 5, 1], [-1, 17, -1, 300, -1], [2, 0, -1, 5, 3], [4, -1, 0, 1, -1]], dtype=torch.int32
    )
    occurrences = torch.randint(0, 9, (6, vocab), generator=draw, dtype=torch.int32)
    history = torch.randint(-1, vocab, (5, width), generator=draw)
    wanted = occurrences.clone(), history.clone()
    tokens = [int(drawn[8]), 17, int(drawn[3]), 300, int(drawn[1])]
    for token, counting, keeping in zip(tokens, rows[2].tolist(), rows[3].tolist(), strict=True):
        if counting >= 0:
            wanted[0][counting, token] += 2
        if keeping >= 0:
            wanted[1][keeping] = torch.tensor([*wanted[1][keeping].tolist(), token][1:])
    for function, where in ((add_drawn, "cpu"), (cuda_drawn.add_drawn_tokens, device)):
        got = occurrences.to(where, copy=True), history.to(where, copy=True)
        function(drawn.to(where), rows.to(where), *got)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, wanted, strict=True))
