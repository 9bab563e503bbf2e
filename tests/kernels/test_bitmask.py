"""Packed masks against the plain meaning of their bits."""

from __future__ import annotations

import pytest
import torch

from kernels.bitmask import apply_bitmask, reference


def both(logits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """The compiled kernel's answer, on rows among others, once it is the reference's."""
    count = logits.shape[0]
    among = torch.cat((torch.full_like(logits, 7), logits))
    apply_bitmask(among, torch.arange(count, 2 * count), words)
    assert (among[:count] == 7).all()
    assert torch.equal(among[count:], reference(logits, words))
    return among[count:]


def pack(allowed: torch.Tensor) -> torch.Tensor:
    rows, vocab = allowed.shape
    padded = torch.zeros(rows, -(-vocab // 32) * 32, dtype=torch.int64)
    padded[:, :vocab] = allowed
    words = (padded.view(rows, -1, 32) << torch.arange(32)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 100])
def test_tokens_without_their_bit_are_ruled_out(vocab: int) -> None:
    draw = torch.Generator().manual_seed(vocab)
    logits = torch.randn(5, vocab, generator=draw)
    allowed = torch.rand(5, vocab, generator=draw) < 0.5
    allowed[:, 0] = True
    assert torch.equal(both(logits, pack(allowed)), torch.where(allowed, logits, float("-inf")))


def test_where_nothing_is_left_the_mask_has_the_last_word() -> None:
    logits = torch.tensor([[float("-inf"), 1.0, 2.0], [float("-inf"), 1.0, float("-inf")]])
    allowed = torch.tensor([[True, False, False], [True, True, True]])
    got = both(logits, pack(allowed))
    assert got.tolist() == [[0.0, float("-inf"), float("-inf")], [float("-inf"), 1.0, float("-inf")]]


def test_a_longer_mask_than_the_vocabulary() -> None:
    logits = torch.arange(40.0)[None]
    got = both(logits, torch.tensor([[-1, 1 << 3, -1, -1]], dtype=torch.int32))
    assert got[0, :32].tolist() == logits[0, :32].tolist()
    assert (got[0, 32:] > float("-inf")).tolist() == [False] * 3 + [True] + [False] * 4
