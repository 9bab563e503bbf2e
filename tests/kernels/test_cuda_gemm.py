"""The product of a few rows with a weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kernels.cuda import gemm


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 96, 576), (5, 33, 100), (17, 130, 300), (64, 64, 256)])
@pytest.mark.parametrize("biased", [False, True])
def test_linear(
    rows: int, columns: int, depth: int, biased: bool, device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    x, weight = (torch.randn(n, depth, device=device).to(dtype) for n in (rows, columns))
    bias = torch.randn(columns, device=device).to(dtype) * 9 if biased else None
    wanted = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    result = gemm.skinny_linear(x, weight, bias)
    assert (result - wanted).norm() < tolerance * wanted.norm()


def test_too_many_rows_are_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="rows=65"):
        gemm.skinny_linear(torch.zeros(65, 16, device=device), torch.zeros(4, 16, device=device))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("columns", "depth"), [(6144, 4096), (4096, 14336), (960, 576), (576, 1536)])
def test_a_row_has_the_same_bits_for_every_number_of_rows_and_in_cublas(columns: int, depth: int) -> None:
    gemm.configure_batch_invariant_gemms()
    x = torch.randn(512, depth, device="cuda").bfloat16()
    weight = (torch.randn(columns, depth, device="cuda") / depth**0.5).bfloat16()
    whole = F.linear(x, weight)
    for rows in (1, 2, 8, 16, 17, 33, 64):
        assert torch.equal(gemm.skinny_linear(x[:rows], weight), whole[:rows])
        assert torch.equal(F.linear(x[:rows], weight), whole[:rows])
