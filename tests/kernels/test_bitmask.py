"""Packed masks against the plain meaning of their bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kernels.bitmask import apply_bitmask, reference

Apply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
BOTH = pytest.mark.parametrize("apply", [apply_bitmask, reference])


@BOTH
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 100])
def test_tokens_without_their_bit_are_ruled_out(apply: Apply, vocab: int) -> None:
    draw = torch.Generator().manual_seed(vocab)
    logits = torch.randn(5, vocab, generator=draw)
    allowed = torch.rand(5, vocab, generator=draw) < 0.5
    allowed[:, 0] = True
    words = pack(allowed)
    got = apply(logits.clone(), words)
    assert torch.equal(got, torch.where(allowed, logits, float("-inf")))


@BOTH
def test_where_nothing_is_left_the_mask_has_the_last_word(apply: Apply) -> None:
    logits = torch.tensor([[float("-inf"), 1.0, 2.0], [float("-inf"), 1.0, float("-inf")]])
    allowed = torch.tensor([[True, False, False], [True, True, True]])
    got = apply(logits.clone(), pack(allowed))
    assert got.tolist() == [[0.0, float("-inf"), float("-inf")], [float("-inf"), 1.0, float("-inf")]]


def pack(allowed: torch.Tensor) -> torch.Tensor:
    rows, vocab = allowed.shape
    padded = torch.zeros(rows, -(-vocab // 32) * 32, dtype=torch.int64)
    padded[:, :vocab] = allowed
    words = (padded.view(rows, -1, 32) << torch.arange(32)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def test_a_longer_mask_than_the_vocabulary() -> None:
    logits = torch.arange(40.0)[None]
    words = torch.tensor([[-1, 1 << 3, -1, -1]], dtype=torch.int32)
    for apply in (apply_bitmask, reference):
        got = apply(logits.clone(), words)
        assert got[0, :32].tolist() == logits[0, :32].tolist()
        assert (got[0, 32:] > float("-inf")).tolist() == [False] * 3 + [True] + [False] * 4
