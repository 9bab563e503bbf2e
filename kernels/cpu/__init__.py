"""CPU kernels, compiled by Numba at first use and cached on disk.

Each keeps a fixed order of arithmetic per row, so that a row's result does not depend on what else is in the batch.
"""
