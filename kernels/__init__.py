"""Galley's kernels: one file per operation with a torch reference and a dispatch by device.

CPU kernels live in ``kernels/cpu`` (compiled by Numba), CUDA kernels are written in Triton. This package knows nothing
of requests, schedules or configuration: tensors in, tensors out.
"""
