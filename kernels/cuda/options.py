"""Switches of the CUDA kernels, for ablations: results are the same to the bit whatever they say.

Process-wide like torch.backends, since a kernel is called from deep inside a model: set once, before an engine captures
its graphs; a captured graph keeps what was set then.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KernelOptions:
    """Which ways of being faster are taken."""

    skinny_gemm: bool = True  # our own product for a few rows, where it beats cuBLAS
    fused_gate: bool = True  # the gated activation as the end of that product
    split_prefill: bool = True  # a few queries behind a long context are split along its keys
    programmatic_launch: bool = True  # a kernel starts, and fetches weights, while the one before it ends


_current = KernelOptions()


def kernel_options() -> KernelOptions:
    """The options in force."""
    return _current


def set_kernel_options(options: KernelOptions) -> None:
    """Choose options for every launch from now on."""
    global _current
    _current = options
