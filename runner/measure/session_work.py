"""What one session notes of its engine's work for the figures that sum over sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.costs import StepGroup
from engine.stats import EngineStats
from runner.measure.ceilings import Machine, machine_of
from runner.measure.power import PowerReading


@dataclass(frozen=True)
class SessionWork:
    """The engine's totals of one session, on which machine, and the GPU's power. See ``EngineStats`` for meanings."""

    session: int
    measured_seconds: float
    busy_seconds: float
    device_busy_seconds: float | None
    groups: tuple[StepGroup, ...]
    device_type: str
    machine: Machine | None
    power: PowerReading

    @classmethod
    def of(cls, session: int, measured_seconds: float, stats: EngineStats, power: PowerReading) -> SessionWork:
        """From what the engine says at the session's end."""
        return cls(
            session=session,
            measured_seconds=measured_seconds,
            busy_seconds=stats.busy_seconds,
            device_busy_seconds=stats.device_busy_seconds,
            groups=stats.step_groups,
            device_type=stats.device.get("type", ""),
            machine=machine_of(stats),
            power=power,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SessionWork:
        """What ``to_json`` gave."""
        machine = data["machine"]
        return cls(
            **{
                **data,
                "groups": tuple(StepGroup(**group) for group in data["groups"]),
                "machine": None if machine is None else Machine(**machine),
                "power": PowerReading(**data["power"]),
            }
        )

    @property
    def flops(self) -> int:
        """Operations of all steps."""
        return sum(group.flops for group in self.groups)

    @property
    def bytes(self) -> int:
        """Bytes of all steps."""
        return sum(group.bytes for group in self.groups)
