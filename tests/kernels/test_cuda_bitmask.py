"""The Triton kernel of packed masks against the definition in torch: equal to the bit, other rows untouched."""

from __future__ import annotations

import pytest
import torch

from kernels.bitmask import reference
from kernels.cuda import bitmask as cuda
from tests.kernels.test_bitmask import pack

NEVER = float("-inf")


def check(logits: torch.Tensor, words: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Rows 3, 1, 5, ... of a larger batch whose rows do not lie one behind the other, with these logits and masks."""
    count, vocab = logits.shape
    at = torch.tensor([3, 1, *range(5, 2 * count, 2)][:count])
    batch = torch.full((2 * count + 4, vocab + 16), 7.0, device=device)[:, :vocab]
    batch[at.to(device)] = logits.to(device)
    cuda.apply_bitmask(batch, at.to(device), words.to(device))
    wanted = torch.full((2 * count + 4, vocab), 7.0)
    wanted[at] = reference(logits, words)
    assert torch.equal(batch.cpu(), wanted)
    return batch.cpu()[at]


@pytest.mark.parametrize("vocab", [1, 31, 33, 100, 4097, 16421])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.001], ids=str)
def test_random_masks(vocab: int, share: float, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(vocab)
    logits = torch.randn(4, vocab, generator=draw)
    allowed = torch.rand(4, vocab, generator=draw) < share
    allowed[0] = False
    allowed[1, -1] = True
    logits[2, ::2] = NEVER
    check(logits, pack(allowed), device)


def test_what_was_ruled_out_before_yields_only_where_nothing_is_left(device: torch.device) -> None:
    """Rows whose allowed tokens were all ruled out before, some of them, and all but the last, far behind the first."""
    vocab = 20011
    allowed = torch.zeros(3, vocab, dtype=torch.bool)
    allowed[:, [5, 300, 9000, 19000, vocab - 1]] = True
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(1))
    logits[0, allowed[0]] = NEVER
    logits[1, [5, 9000]] = NEVER
    logits[2, [5, 300, 9000, 19000]] = NEVER
    got = check(logits, pack(allowed), device)
    assert (got > NEVER).sum(1).tolist() == [5, 3, 1]
    assert got[0, allowed[0]].tolist() == [0.0] * 5


def test_a_longer_mask_than_the_vocabulary(device: torch.device) -> None:
    words = torch.full((2, 9), -1, dtype=torch.int32)
    words[1, :4] = 0  # the tokens that it allows are none of the model's
    got = check(torch.randn(2, 70, generator=torch.Generator().manual_seed(2)), words, device)
    assert (got[1] == NEVER).all()
