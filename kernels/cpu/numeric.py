"""What every CPU kernel needs: NumPy views of tensors, bfloat16 as 16-bit integers, a vectorising exponential."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Only contraction to fused multiply-add is allowed: it depends on the code, never on the data's place in a batch, while
# reassociation would let the compiler pick an order per loop shape.
FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "cache": True}
PARALLEL: dict[str, Any] = {**FLAGS, "parallel": True}


@intrinsic
def from_bits(_context: Any, _word: Any) -> Any:
    """The float32 with this uint32 bit pattern."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def to_bits(_context: Any, _value: Any) -> Any:
    """The uint32 bit pattern of this float32."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), generate


LANES = 16  # independent partial sums of a row: one vector register of float32
LOG2E = np.float32(1.4426950408889634)


def array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """View a CPU tensor as an array that shares its memory; bfloat16 becomes uint16, its bit pattern."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def use_threads(work: int, per_thread: int) -> None:
    """Let the next kernel run on as many threads as ``work`` items keep busy.

    Waking a second thread costs some ten microseconds, more than a small kernel takes. The results do not depend on it:
    every work item is computed by one thread, in one order.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS, work // per_thread)))
    if torch.get_num_threads() != threads:  # the first call starts Numba's pool, which lets OpenMP have all processors
        torch.set_num_threads(threads)


@intrinsic
def widen(_context: Any, stored: Any) -> Any:
    """float32 value of one stored element: itself, or the bfloat16 with these bits (uint16)."""

    def from_bfloat16(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        word = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    if stored == types.uint16:
        return types.float32(stored), from_bfloat16
    return types.float32(types.float32), lambda _target, _builder, _signature, args: args[0]


@intrinsic
def narrow(_context: Any, value: Any, array: Any) -> Any:
    """The float32 ``value`` as an element of ``array``: itself, or the bits of the nearest bfloat16 (ties to even)."""

    def to_bfloat16(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(args[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        nearest = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(nearest, ir.Constant(word, 16)), ir.IntType(16))

    if array.dtype == types.uint16:
        return types.uint16(types.float32, array), to_bfloat16
    return types.float32(types.float32, array), lambda _target, _builder, _signature, args: args[0]


@intrinsic
def prefetch(context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of the ``index``-th element of a contiguous array, to be read soon."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        data = context_of(_target, array, builder, args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(hint, [address, word(0), word(3), word(1)])
        return _target.get_dummy_value()

    def context_of(target: Any, kind: Any, builder: Any, value: Any) -> Any:
        return target.make_array(kind)(target, builder, value)

    return types.none(array, types.intp), generate


@numba.njit(inline="always", **FLAGS)
def exp2(x: Any) -> Any:
    """2**x in float32, x clamped to [-126, 126]: a polynomial of degree 6 on [-0.5, 0.5], relative error under 2e-7."""
    x = min(max(x, np.float32(-126.0)), np.float32(126.0))
    whole = np.floor(x + np.float32(0.5))
    f = x - whole
    p = np.float32(1.5403530393381609e-4)
    p = p * f + np.float32(1.3333558146428443e-3)
    p = p * f + np.float32(9.618129107628477e-3)
    p = p * f + np.float32(5.5504108664821576e-2)
    p = p * f + np.float32(2.402265069591007e-1)
    p = p * f + np.float32(6.931471805599453e-1)
    p = p * f + np.float32(1.0)
    return from_bits(to_bits(p) + np.uint32(np.int32(whole) << 23))
