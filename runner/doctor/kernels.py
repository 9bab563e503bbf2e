"""The kernels' self-test as findings."""

from __future__ import annotations

from collections.abc import Iterator

from runner.doctor.finding import Finding


def check_kernels() -> Iterator[Finding]:
    """Compile and check every kernel of the CPU, and of CUDA where it is. Imports torch, Numba and Triton."""
    import torch

    for name in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        yield from _device(name)


def _device(name: str) -> Iterator[Finding]:
    import torch

    from kernels.self_test import self_test

    if name == "cuda":
        from kernels.cuda.gemm import configure_batch_invariant_gemms

        configure_batch_invariant_gemms()
    for check in self_test(torch.device(name)):
        what = f"{name} {check.name}"
        if check.passed:
            found = f"equal to its reference (error {check.error:.1g}, {check.seconds:.1f} s)"
            yield Finding("OK", what, found)
            continue
        where = "Triton's cache (~/.triton)" if name == "cuda" else "Numba's cache (__pycache__ beside kernels/cpu)"
        fix = f"remove {where} and try again; then report it with `python -m torch.utils.collect_env`"
        found = check.raised or f"error {check.error:.2g}, and rounding explains {check.limit:.0e}"
        yield Finding("FAIL", what, found, fix)
