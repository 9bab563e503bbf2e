"""Norm, gated activation and packed products on the CPU: equal to the references, rows independent of each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kernels import activation, norm
from kernels.linear import PackedLinear

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
TOKENS = pytest.mark.parametrize("tokens", [1, 2, 3, 17, 70])


def near(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Within rounding: one step of the dtype."""
    step = 2**-7 if got.dtype == torch.bfloat16 else 2e-6
    return bool(((got.float() - expected.float()).abs() <= step * expected.float().abs() + 1e-6).all())


@DTYPES
@TOKENS
@pytest.mark.parametrize("hidden", [16, 40, 64, 576, 1000])
def test_norm(tokens: int, hidden: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(hidden)
    x, residual = (torch.randn(2, tokens, hidden, generator=generator) * 3).to(dtype)
    weight = torch.rand(hidden, generator=generator) + 0.5
    sums = [residual.clone() for _ in range(2)]
    got = norm.add_rms_norm(x, sums[0], weight, 1e-5)
    expected = norm.reference(x, sums[1], weight, 1e-5)
    assert got.dtype == dtype
    assert torch.equal(sums[0], sums[1])
    assert near(got, expected)
    for row in range(tokens):
        alone = residual[row : row + 1].clone()
        assert torch.equal(norm.add_rms_norm(x[row : row + 1], alone, weight, 1e-5)[0], got[row])


@DTYPES
@TOKENS
@pytest.mark.parametrize("width", [1, 15, 16, 96, 1537])
def test_gate(tokens: int, width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(width)
    x = (torch.randn(tokens, 2 * width, generator=generator) * 4).to(dtype)
    got = activation.silu_mul(x)
    assert got.dtype == dtype
    assert near(got, activation.reference(x))
    for row in range(tokens):
        assert torch.equal(activation.silu_mul(x[row : row + 1])[0], got[row])


def test_gate_at_its_ends() -> None:
    gates = torch.tensor([[-1e30, -200.0, -90.0, -20.0, -0.0, 0.0, 20.0, 90.0, 1e30]])
    got = activation.silu_mul(torch.cat((gates, torch.ones_like(gates)), 1))
    assert torch.isfinite(got).all()
    assert got[0, -3:].tolist() == gates[0, -3:].tolist()
    assert got[0, 1:4].abs().max().item() < 1e-7


@DTYPES
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (576, 960), (1536, 576), (33, 17)])
def test_packed_product(inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(outputs)
    weight = (torch.randn(outputs, inputs, generator=generator) / inputs**0.5).to(dtype)
    shift = torch.randn(outputs, generator=generator).to(dtype) if bias else None
    x = torch.randn(70, inputs, generator=generator).to(dtype)
    linear = PackedLinear(weight, shift)
    whole = linear(x)
    exact = F.linear(x.double(), weight.double(), None if shift is None else shift.double())
    assert (whole.double() - exact).abs().max().item() < (0.03 if dtype == torch.bfloat16 else 1e-5)
    for rows in (1, 2, 3, 5, 16, 17, 69):
        for first in range(0, 70 - rows, max(1, rows)):
            assert torch.equal(linear(x[first : first + rows]), whole[first : first + rows])


def test_packed_product_is_what_is_tested() -> None:
    """On x86 the private operators are there; elsewhere the plain product serves, whose rows are not independent."""
    if torch.backends.mkldnn.is_available():
        assert PackedLinear(torch.ones(4, 4)).packed
