"""The self-test itself: it passes where the kernels are right, also in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from kernels.self_test import LIMITS, cuda_decode, cuda_prefill, self_test


def test_the_cpus_kernels_pass() -> None:
    checks = list(self_test(torch.device("cpu")))
    assert len(checks) == 7
    assert all(check.passed for check in checks), checks


def test_triton_attention_passes(device: torch.device, dtype: torch.dtype) -> None:
    assert cuda_prefill(device, dtype) < LIMITS[dtype]
    assert cuda_decode(device, dtype) < LIMITS[dtype]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cudas_kernels_pass() -> None:
    checks = list(self_test(torch.device("cuda")))
    assert len(checks) == 8
    assert all(check.passed for check in checks), checks
