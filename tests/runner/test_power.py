"""The power meter on a stand-in for NVML: counter, samples, and every way in which NVML can fail."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from itertools import cycle, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from runner.measure.power import PowerMeter, PowerReading


class NvmlError(Exception):
    """As pynvml's, of no common base but Exception."""


class Nvml:
    """A GPU that takes ``watts``; its energy counter follows time. ``fails`` names the calls that raise."""

    def __init__(self, watts: float = 250.0, fails: tuple[str, ...] = (), failing_after: int = 10**9) -> None:
        self.watts, self.fails, self.failing_after = watts, fails, failing_after
        self.asked: list[str] = []
        self.clocks: Iterator[int] = repeat(0)
        self.pids = [os.getpid()]
        self.open = 0

    def _call(self, name: str) -> None:
        if name in self.fails:
            raise NvmlError(f"{name} Not Supported")

    def nvmlInit(self) -> None:
        self._call("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._call("handle")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._call("energy")
        return round((1e6 + time.monotonic() * self.watts) * 1e3)  # mJ

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        self._call("clocks")
        return next(self.clocks)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self.asked.append(handle)
        if len(self.asked) > self.failing_after:
            raise NvmlError("GPU is lost")
        self._call("power")
        return round(self.watts * 1e3)  # mW


def read(nvml: Any, uuid: str | None = "GPU-1", seconds: float = 0.15, **more: Any) -> PowerReading:
    with PowerMeter(uuid, nvml=nvml, period=0.01, **more) as meter:
        time.sleep(seconds)
    assert not [thread for thread in threading.enumerate() if thread.name == "power"]
    return meter.stop()


def test_the_counter_gives_the_energy() -> None:
    nvml = Nvml(watts=250)
    reading = read(nvml)
    assert reading.source == "counter"
    assert reading.joules is not None
    assert reading.joules == pytest.approx(250 * reading.seconds, rel=0.1)
    assert reading.mean_watts == pytest.approx(reading.joules / reading.seconds)
    assert (reading.peak_watts, reading.reason) == (250, None)
    assert set(nvml.asked) == {"GPU-1"}  # only the engine's GPU
    assert nvml.open == 0


def test_without_a_counter_the_samples_are_integrated() -> None:
    reading = read(Nvml(watts=180, fails=("energy",)))
    assert reading.source == "samples"
    assert reading.joules == pytest.approx(180 * reading.seconds, rel=0.1)
    assert (reading.peak_watts, reading.reason) == (180, None)


def test_the_counter_serves_without_power() -> None:
    reading = read(Nvml(fails=("power",)))
    assert reading.source == "counter"
    assert reading.joules is not None
    assert reading.peak_watts is None
    assert reading.reason == "NVML gave no power: power Not Supported"


def test_a_lost_gpu_gives_a_reason_and_no_number() -> None:
    reading = read(Nvml(fails=("energy",), failing_after=3))
    assert (reading.joules, reading.mean_watts, reading.peak_watts) == (None, None, None)
    assert reading.reason == "NVML gave no power: GPU is lost"


@pytest.mark.parametrize("call", ["init", "handle"])
def test_no_access(call: str) -> None:
    reading = read(Nvml(fails=(call,)))
    assert reading.joules is None
    assert reading.reason == f"NVML gives no access to the GPU: {call} Not Supported"


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read(None).reason == "the package nvidia-ml-py is not installed"


def test_no_gpu_asks_nothing() -> None:
    nvml = Nvml()
    reading = read(nvml, uuid=None, reason="the engine ran on the CPU")
    assert (reading.joules, reading.reason, nvml.asked) == (None, "the engine ran on the CPU", [])


def test_the_real_package_has_the_functions() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name in [name for name in vars(Nvml) if name.startswith("nvml")]:
        assert callable(getattr(pynvml, name))


def test_an_error_in_the_measured_phase_ends_the_thread() -> None:
    meter = PowerMeter("GPU-1", nvml=Nvml(), period=0.01)
    with pytest.raises(RuntimeError, match="the engine failed"), meter:
        raise RuntimeError("the engine failed")
    assert not [thread for thread in threading.enumerate() if thread.name == "power"]
    assert meter.stop().joules is not None


def test_looks_at_the_clocks() -> None:
    nvml = Nvml()
    nvml.clocks = cycle([0x40, 0x4, 0x1, 0x0])  # heat, the power limit, idle, none
    reading = read(nvml, seconds=0.3)
    assert reading.looks == len(nvml.asked) >= 8
    assert reading.slowed == -(-reading.looks // 4)
    assert reading.capped == -(-(reading.looks - 1) // 4)


@pytest.mark.parametrize(
    ("pids", "others"),
    [((os.getpid(),), 0), ((os.getpid(), 1), 1), ((), 0), ((7_000_001,), 0), ((7_000_001, 7_000_002), 1)],
)
def test_other_processes(pids: tuple[int, ...], others: int) -> None:
    nvml = Nvml()
    nvml.pids = list(pids)
    assert read(nvml, seconds=0.05).others == others


def test_a_gpu_that_does_not_say_gives_its_power_all_the_same() -> None:
    reading = read(Nvml(fails=("clocks",)))
    assert (reading.looks, reading.slowed, reading.others) == (0, 0, 0)
    assert reading.joules is not None
