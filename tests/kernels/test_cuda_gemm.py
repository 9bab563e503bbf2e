"""The product of a few rows with a weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kernels.cuda import gemm, skinny
from kernels.cuda.activation import gated
from kernels.cuda.options import KernelOptions, kernel_options, set_kernel_options


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


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 96, 512), (11, 30, 512), (3, 34, 576), (20, 260, 128)])
def test_a_gate_at_the_end_of_a_product_equals_both_in_turn(
    rows: int, columns: int, depth: int, device: torch.device, dtype: torch.dtype
) -> None:
    x, weight = (torch.randn(n, depth, device=device).to(dtype) / depth**0.25 for n in (rows, columns))
    bias = torch.randn(columns, device=device).to(dtype)
    out = torch.full((rows, columns // 2), float("nan"), device=device, dtype=dtype)
    skinny.launch(x, weight, bias, out, "silu")
    wanted = gated(gemm.skinny_linear(x, weight, bias), "silu")
    if device.type == "cuda":
        assert torch.equal(out, wanted)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 8, 9, 16, 17, 64])
@pytest.mark.parametrize("columns", [576, 2048, 6144, 28672, 128256])
@pytest.mark.parametrize("depth", [64, 100, 576, 1536, 2048, 14336])
def test_every_tile_fits_the_device(rows: int, columns: int, depth: int) -> None:
    tile = skinny.tile_for(rows, columns, depth, 132)
    assert tile.rows >= rows
    assert tile.stages * (tile.columns + tile.rows) * tile.depth * 2 <= 227 * 1024
    assert depth % tile.depth == 0 or tile.depth == 64


def test_options_are_kept_until_others_are_set() -> None:
    before = kernel_options()
    try:
        set_kernel_options(KernelOptions(skinny_gemm=False))
        assert kernel_options() == KernelOptions(skinny_gemm=False)
    finally:
        set_kernel_options(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [1, 5, 16, 40])
def test_options_do_not_change_results(rows: int) -> None:
    gemm.configure_batch_invariant_gemms()
    x = torch.randn(rows, 2048, device="cuda").bfloat16()
    weight = (torch.randn(4096, 2048, device="cuda") / 2048**0.5).bfloat16()
    before, results = kernel_options(), []
    try:
        for flags in ((True, True, True), (True, False, True), (True, True, False), (False, False, False)):
            set_kernel_options(KernelOptions(*flags))
            results.append(gemm.gated_linear(x, weight, None, "silu"))
    finally:
        set_kernel_options(before)
    assert all(torch.equal(result, results[0]) for result in results)


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
    for rows in (1, 2, 8, 9, 16, 17, 33, 64):
        assert torch.equal(gemm.skinny_linear(x[:rows], weight), whole[:rows])
        assert torch.equal(F.linear(x[:rows], weight), whole[:rows])
