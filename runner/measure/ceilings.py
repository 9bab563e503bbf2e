"""What a machine reaches at best: read and copy bandwidth and matrix products per second, measured once and kept.

The figures are of short bursts on large random buffers, the best of several tries: what nothing that the engine does
should exceed. They are kept in the cache folder under ``ceilings``; deleting a file there measures it again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, fields
from typing import TYPE_CHECKING, Any

from engine.model.cache import cache_folder
from engine.stats import EngineStats
from runner.sink.atomic import replaced

if TYPE_CHECKING:
    from pathlib import Path

    import torch

MIB = 1 << 20
# Buffers larger than the caches; random numbers of RANDOM_BYTES, repeated. Zeros would take less power and run faster.
CPU_BUFFER, CUDA_BUFFER, RANDOM_BYTES = 256 * MIB, 2048 * MIB, 16 * MIB
CPU_SIDE, CUDA_SIDE = 2048, 8192  # of the square matrices
SECONDS = 0.4  # of tries for each figure, after one to warm up
FEWEST_TRIES, MOST_TRIES = 3, 20
DTYPES = ("float32", "bfloat16", "float16")


class CeilingsError(Exception):
    """The ceilings cannot be given; the message says why."""


@dataclass(frozen=True)
class Machine:
    """What the ceilings depend on. ``threads`` is that of the CPU, and empty on a GPU."""

    type: str
    name: str
    dtype: str
    threads: str
    torch: str


@dataclass(frozen=True)
class Ceilings:
    """Bytes read per second, bytes moved per second while copying (read and written), and operations per second."""

    read_bytes_per_s: float
    copy_bytes_per_s: float
    matmul_flops_per_s: float


def machine_of(stats: EngineStats) -> Machine | None:
    """The machine on which an engine ran, ``None`` if it says nothing of one."""
    device, numerics = stats.device, stats.numerics
    if not {"type", "name"} <= device.keys() or not {"dtype", "torch"} <= numerics.keys():
        return None
    return Machine(device["type"], device["name"], numerics["dtype"], device.get("threads", ""), numerics["torch"])


def ceilings_file(machine: Machine) -> Path:
    """Where a machine's ceilings are kept."""
    key = hashlib.sha256(json.dumps(asdict(machine), sort_keys=True).encode()).hexdigest()
    return cache_folder() / "ceilings" / f"{machine.type}-{machine.dtype}-{key[:16]}.json"


def find_ceilings(machine: Machine, again: bool = False) -> Ceilings:
    """A machine's ceilings: those kept, else, where it is this one, measured now (some 2 s) and kept.

    Args:
        machine: whose.
        again: measure in any case, and keep the better of old and new: a run was faster than what is kept allows.

    Raises:
        CeilingsError: it is another machine, or measuring failed.
    """
    path = ceilings_file(machine)
    kept = _kept(path)
    if kept is not None and not again:
        return kept
    found = _measured_here(machine)
    if kept is not None:
        found = Ceilings(*(max(pair) for pair in zip(astuple(kept), astuple(found), strict=True)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            temporary.write_text(json.dumps({**asdict(machine), **asdict(found)}, indent=2) + "\n", encoding="utf-8")
    except OSError:
        pass  # a cache that cannot be written costs time, never a run
    return found


def _kept(path: Path) -> Ceilings | None:
    """What the file holds, ``None`` without one or if it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Ceilings(**{field.name: float(data[field.name]) for field in fields(Ceilings)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured_here(machine: Machine) -> Ceilings:
    import torch

    from engine.device import describe

    if machine.dtype not in DTYPES:
        raise CeilingsError(f"there is no ceiling for {machine.dtype}, only for {', '.join(DTYPES)}")
    if machine.type == "cuda" and not torch.cuda.is_available():
        raise CeilingsError(f"the ceilings of {machine.name} were not measured, and it is not here now")
    here = describe(torch.device(machine.type))
    if (here["name"], here.get("threads", "")) != (machine.name, machine.threads) or torch.__version__ != machine.torch:
        raise CeilingsError(f"the ceilings of {machine.name} were not measured, and this is another machine or setting")
    try:
        return measure_ceilings(torch.device(machine.type), getattr(torch, machine.dtype))
    except RuntimeError as error:  # torch's: out of memory
        reason = str(error).strip().splitlines()[0]
        raise CeilingsError(f"the ceilings of {machine.name} could not be measured: {reason}") from None


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure now, in some 2 s; never while an engine runs.

    Raises:
        RuntimeError: torch's, where the memory does not suffice.
    """
    import torch

    with torch.inference_mode():
        return Ceilings(*_bandwidths(device), _matmul_rate(device, dtype))


def _bandwidths(device: torch.device) -> tuple[float, float]:
    """Bytes per second of reading, by the better of two operations that do nothing else, and of copying."""
    import torch

    buffer = _random_buffer(device)
    size, half = buffer.numel() * buffer.itemsize, buffer.numel() // 2
    read = min(_best(device, buffer.sum), _best(device, lambda: torch.dot(buffer[:half], buffer[half:])))
    other = torch.empty_like(buffer)
    return size / read, 2 * size / _best(device, lambda: other.copy_(buffer))


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a product of large matrices; on the CPU the better of torch's and the engine's way."""
    import torch

    side = CPU_SIDE if device.type == "cpu" else CUDA_SIDE
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    seconds = _best(device, lambda: torch.mm(a, b, out=out))
    if device.type == "cpu":
        from kernels.linear import PackedLinear

        linear = PackedLinear(b)
        seconds = min(seconds, _best(device, lambda: linear(a)))
    return float(2 * side**3 / seconds)


def _random_buffer(device: torch.device) -> torch.Tensor:
    """Random float32 numbers, more than the caches hold and no more than a quarter of the free memory."""
    import psutil
    import torch

    if device.type == "cpu":
        size = min(CPU_BUFFER, psutil.virtual_memory().available // 4)
    else:
        size = min(CUDA_BUFFER, torch.cuda.mem_get_info(device)[0] // 4)
    block = torch.randn(min(RANDOM_BYTES, size) // 4, device=device)
    return block.repeat(max(2, size // (block.numel() * 4)))


def _best(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds of the fastest try."""
    timed = _timed_cpu if device.type == "cpu" else _timed_cuda
    timed(work)
    best, spent, tries = float("inf"), 0.0, 0
    while tries < FEWEST_TRIES or (spent < SECONDS and tries < MOST_TRIES):
        seconds = timed(work)
        best, spent, tries = min(best, seconds), spent + seconds, tries + 1
    return best


def _timed_cpu(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _timed_cuda(work: Callable[[], Any]) -> float:
    """By the device's own clock, so that launching does not count; several in a row, because one alone is short."""
    import torch

    repeats = 5
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats
