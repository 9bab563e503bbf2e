"""Power and energy of the engine's GPU over the measured phase, and what slowed it down meanwhile, from NVML."""

from __future__ import annotations

import importlib
import os
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import psutil

# NVML's reasons for clocks below what was asked for (nvmlClocksEventReasons): the power limit, which many GPUs reach
# under any full load, and what no measurement should have: heat, and the board's own brakes.
POWER_CAP = 0x4
SLOWDOWN = 0x8 | 0x20 | 0x40 | 0x80  # hardware, thermal by software, thermal by hardware, power brake
PERIOD_SECONDS = 0.2
MOST_FAILURES = 5  # samples in a row without an answer, after which sampling ends


@dataclass(frozen=True)
class PowerReading:
    """Energy and power over ``seconds``; ``None`` where they cannot be given, which ``reason`` explains.

    ``source`` of the energy: ``counter``, the GPU's own, or ``samples``, its power integrated over time. Of ``looks``
    at its clocks, ``slowed`` found them held down by heat or hardware and ``capped`` by the power limit. ``others``:
    most processes at once that used the GPU beside this one and its children.
    """

    seconds: float
    joules: float | None = None
    mean_watts: float | None = None
    peak_watts: float | None = None
    source: str | None = None
    reason: str | None = None
    looks: int = 0
    slowed: int = 0
    capped: int = 0
    others: int = 0


class PowerMeter:
    """Reads one GPU's power while its context is open: one thread, which an error ends and nothing else notices.

    Args:
        uuid: the GPU's, as NVML names it; ``None`` reads nothing.
        reason: why there is nothing to read, if ``uuid`` is ``None``.
        nvml: the module ``pynvml``, or what stands in for it; ``None`` imports it.
        period: seconds between samples.
    """

    def __init__(
        self, uuid: str | None, reason: str | None = None, nvml: Any = None, period: float = PERIOD_SECONDS
    ) -> None:
        self._uuid, self._reason, self._nvml, self._period = uuid, reason, nvml, period
        self._handle: Any = None
        self._counter: float | None = None
        self._samples = self._failures = 0
        self._lost = False
        self._peak = self._integral = 0.0
        self._looks = self._slowed = self._capped = self._others = 0
        self._previous: tuple[float, float] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._reading: PowerReading | None = None

    def __enter__(self) -> PowerMeter:
        self._start = time.monotonic()
        if self._uuid is not None and self._open():
            self._counter = self._joules()
            self._sample()
            self._thread = threading.Thread(target=self._watch, name="power", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> PowerReading:
        """End the thread and give the reading, the same one if asked again."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None
            self._sample()
        if self._reading is None:
            self._reading = self._read()
            self._close()
        return self._reading

    def _open(self) -> bool:
        try:
            self._nvml = self._nvml or importlib.import_module("pynvml")
        except ImportError:
            self._reason = "the package nvidia-ml-py is not installed"
            return False
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        except Exception as error:  # NVMLError of many kinds: no driver, no permission, a GPU that it does not know
            self._reason = f"NVML gives no access to the GPU: {error}"
            return False
        return True

    def _close(self) -> None:
        if self._handle is not None:
            try:
                self._nvml.nvmlShutdown()
            except Exception as error:
                self._reason = self._reason or f"NVML: {error}"

    def _joules(self) -> float | None:
        """The GPU's energy counter (since its driver was loaded), ``None`` where it has none."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except Exception:  # before Volta, and in some virtual machines: the samples serve
            return None

    def _watch(self) -> None:
        while not self._over.wait(self._period) and not self._lost:
            self._sample()

    def _sample(self) -> None:
        """Take the power now; its integral goes on in a straight line from the sample before."""
        try:
            watts = float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1e3
        except Exception as error:
            self._failures += 1
            self._lost = self._lost or self._failures >= MOST_FAILURES
            self._reason = f"NVML gave no power: {error}"
            return
        now = time.monotonic()
        if self._previous is not None:
            then, before = self._previous
            self._integral += (now - then) * (watts + before) / 2
        self._previous = now, watts
        self._samples += 1
        self._failures = 0
        self._peak = max(self._peak, watts)
        self._look()

    def _look(self) -> None:
        """What holds the clocks down now, and who else is there; a GPU that does not say is not asked for a reason."""
        try:
            why = int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
            processes = {one.pid for one in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        except Exception:
            return
        self._looks += 1
        self._slowed += bool(why & SLOWDOWN)
        self._capped += bool(why & POWER_CAP)
        self._others = max(self._others, _others(processes))

    def _read(self) -> PowerReading:
        seconds = max(time.monotonic() - self._start, 1e-9)
        if self._handle is None:
            return PowerReading(seconds, reason=self._reason)
        return replace(
            self._energy(seconds), looks=self._looks, slowed=self._slowed, capped=self._capped, others=self._others
        )

    def _energy(self, seconds: float) -> PowerReading:
        after, peak = self._joules(), self._peak if self._samples and not self._lost else None
        if self._counter is not None and after is not None and after >= self._counter:
            joules = after - self._counter
            reason = None if peak is not None else self._reason
            return PowerReading(seconds, joules, joules / seconds, peak, "counter", reason)
        if self._samples < 2 or self._lost:
            return PowerReading(seconds, reason=self._reason or "NVML gave too few samples of the power")
        return PowerReading(seconds, self._integral, self._integral / seconds, peak, "samples")


def _others(processes: set[int]) -> int:
    """How many of the GPU's processes are not ours. In a container NVML may number them as the host does: then none of
    them has our number, and one of them is we."""
    own = os.getpid()
    if own not in processes:
        return max(0, len(processes) - 1)
    return len(processes - {own, *(child.pid for child in psutil.Process(own).children(recursive=True))})
