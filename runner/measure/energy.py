"""Energy, power and memory of the GPU that the engine used."""

from __future__ import annotations

from collections.abc import Sequence

from engine.stats import EngineStats
from runner.measure.power import PowerReading
from runner.measure.session_work import SessionWork
from runner.run_info import Session

Figures = dict[str, float | int | None]
ENERGY = ("energy_j", "energy_j_per_output_token", "power_w/mean", "power_w/peak")
MEMORY = ("device_memory_mib/allocated", "device_memory_mib/reserved")
ON_CPU = "the engine ran on the CPU"
NO_DEVICE = "the engine used no GPU"
OFF = "measure.energy is off"


def no_meter(device_type: str, wanted: bool) -> str | None:
    """Why no power is read on a device of this type; ``None`` if it is."""
    if device_type == "cuda":
        return None if wanted else OFF
    return ON_CPU if device_type == "cpu" else NO_DEVICE


def energy(
    works: Sequence[SessionWork], sessions: Sequence[Session], output_tokens: int
) -> tuple[Figures, dict[str, str]]:
    """Energy and power over all sessions, and why a figure is missing: one that a session lacks cannot be summed."""
    readings = [work.power for work in works]
    reason = _reason(works, sessions)
    joules = _all([reading.joules for reading in readings]) if reason is None else None
    peaks = _all([reading.peak_watts for reading in readings]) if reason is None else None
    metrics: Figures = {
        "energy_j": None if joules is None else sum(joules),
        "energy_j_per_output_token": sum(joules) / output_tokens if joules and output_tokens else None,
        "power_w/mean": None if joules is None else sum(joules) / sum(reading.seconds for reading in readings),
        "power_w/peak": None if peaks is None else max(peaks),
    }
    why = reason or _first_reason(readings)
    notes = {name: why for name in ENERGY if metrics[name] is None}
    if joules is not None and not output_tokens:
        notes["energy_j_per_output_token"] = "no output tokens"
    return metrics, notes


def memory(stats: EngineStats) -> tuple[Figures, dict[str, str]]:
    """Peak memory on the GPU in the last session."""
    values = dict(zip(MEMORY, (stats.peak_allocated_bytes, stats.peak_reserved_bytes), strict=True))
    metrics: Figures = {name: None if value is None else value / 2**20 for name, value in values.items()}
    return metrics, {name: ON_CPU if _on_cpu(stats) else NO_DEVICE for name in MEMORY if metrics[name] is None}


def _on_cpu(stats: EngineStats) -> bool:
    return stats.device.get("type") == "cpu"


def _reason(works: Sequence[SessionWork], sessions: Sequence[Session]) -> str | None:
    """Why the sum over sessions cannot be given at all."""
    noted = {work.session for work in works}
    silent = [session.number for session in sessions if session.number not in noted and session.measured_seconds > 0]
    if not works:
        return "no session noted it"
    if silent:
        missing = [work.power for work in works if work.power.joules is None]
        return _first_reason(missing) if missing else f"session {silent[0]} was killed and noted nothing"
    return None


def _first_reason(readings: Sequence[PowerReading]) -> str:
    return next((reading.reason for reading in readings if reading.reason), "NVML gave no figure")


def _all(values: Sequence[float | None]) -> list[float] | None:
    """The values, if none is missing."""
    given = [value for value in values if value is not None]
    return given if given and len(given) == len(values) else None
