"""Galley's CUDA kernels, written in Triton.

Rules that make every row's arithmetic independent of its neighbours: no kernel splits a reduction by the number of rows
or by the number of SMs; attention walks keys in tiles and pieces of fixed size and merges the pieces in their order;
whatever sum depends on a layout has one layout per model shape. ``NUMERICS`` names the constants results depend on.
"""

from __future__ import annotations

from kernels.cuda.numerics import NUMERICS as NUMERICS
