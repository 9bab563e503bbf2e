"""Where the tests of CUDA kernels run: in bfloat16 on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def sequential_products() -> None:
    """Before any test makes torch's cuBLAS handle."""
    if torch.cuda.is_available():
        from kernels.cuda.gemm import configure_batch_invariant_gemms

        configure_batch_invariant_gemms()


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def dtype() -> torch.dtype:
    """bfloat16 on a GPU; the interpreter multiplies bfloat16 matrices wrongly, so float32 there."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


@pytest.fixture
def tolerance() -> float:
    """Relative error, as a share of the reference's norm, that the type's rounding explains."""
    return 1e-2 if torch.cuda.is_available() else 2e-6
