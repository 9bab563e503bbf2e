"""How far a run was from what its machine can do: the roofline model (Williams, Waterman and Patterson 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from engine.costs import StepGroup
from runner.measure.ceilings import Ceilings, CeilingsError, Machine, find_ceilings
from runner.measure.session_work import SessionWork

Figures = dict[str, float | int | None]
Found = Mapping[Machine, Ceilings | str]
"""Each machine's ceilings, or why there are none."""

WORK = ("work/tflop", "work/gb", "arithmetic_intensity")
RATIOS = ("mbu", "mfu", "floor_s", "floor_share")
CEILINGS = ("ceiling/read_gb_per_s", "ceiling/copy_gb_per_s", "ceiling/matmul_tflop_per_s")
BUSY = ("engine_busy_share", "device_busy_share")
OFF = "measure.roofline is off"
NO_WORK = "no session noted what its engine did"
NOT_COUNTED = "the engine does not count what its steps compute"
NOT_BUSY = "the engine does not tell when it computes"


def ceilings_of(works: Sequence[SessionWork], wanted: bool) -> Found:
    """The ceilings of every machine that worked on the run; what was not measured before is measured now.

    Ceilings that the run went through were measured while the machine was busy: they are measured again.
    """
    found: dict[Machine, Ceilings | str] = {}
    for machine in dict.fromkeys(work.machine for work in works if work.flops):
        if machine is None:
            continue
        try:
            found[machine] = _ceilings(machine, [w for w in works if w.machine == machine]) if wanted else OFF
        except CeilingsError as error:
            found[machine] = str(error)
    return found


def _ceilings(machine: Machine, works: Sequence[SessionWork]) -> Ceilings:
    ceilings = find_ceilings(machine)
    floor = sum(floor_seconds(group, ceilings) for work in works for group in work.groups)
    if floor <= sum(work.busy_seconds for work in works):
        return ceilings
    try:
        return find_ceilings(machine, again=True)
    except CeilingsError:
        return ceilings  # of another machine


def floor_seconds(group: StepGroup, ceilings: Ceilings) -> float:
    """The least time for the group's steps: for the operations or for the bytes, whichever takes longer."""
    return max(group.flops / ceilings.matmul_flops_per_s, group.bytes / ceilings.read_bytes_per_s)


def roofline(works: Sequence[SessionWork], found: Found) -> tuple[Figures, dict[str, str]]:
    """MBU, MFU, floor and what they are made of, summed over sessions, and why a figure is missing.

    A session that was killed noted no work: it has no part in any of these figures, its measured seconds neither.
    """
    metrics: Figures = dict.fromkeys((*WORK, *RATIOS, *CEILINGS, *BUSY))
    flops, moved = sum(work.flops for work in works), sum(work.bytes for work in works)
    if flops and moved:
        metrics |= {"work/tflop": flops / 1e12, "work/gb": moved / 1e9, "arithmetic_intensity": flops / moved}
    each = [found.get(work.machine, NOT_COUNTED) if work.machine else NOT_COUNTED for work in works if work.flops]
    known = [ceilings for ceilings in each if isinstance(ceilings, Ceilings)]
    why = next((reason for reason in each if isinstance(reason, str)), NOT_COUNTED)
    if known and len(known) == len(each):
        metrics |= _ratios([work for work in works if work.flops], known, flops, moved)
        last = known[-1]
        rates = (last.read_bytes_per_s / 1e9, last.copy_bytes_per_s / 1e9, last.matmul_flops_per_s / 1e12)
        metrics |= dict(zip(CEILINGS, rates, strict=True))
    metrics |= _busy(works)
    reasons = dict.fromkeys(WORK, NOT_COUNTED) | dict.fromkeys((*RATIOS, *CEILINGS), why)
    reasons |= {"engine_busy_share": NOT_BUSY, "device_busy_share": _no_device_time(works)}
    notes = {name: reasons[name] if works else NO_WORK for name, value in metrics.items() if value is None}
    return metrics, notes


def roofline_detail(works: Sequence[SessionWork], found: Found) -> dict[str, Any] | None:
    """What the report draws: the last noted session's machine, ceilings and groups of steps; ``None`` without."""
    for work in reversed(works):
        ceilings = found.get(work.machine) if work.machine else None
        if work.machine is not None and isinstance(ceilings, Ceilings) and work.groups:
            return {
                "sessions": [each.session for each in works],
                "session": work.session,
                "measured_s": work.measured_seconds,
                "machine": asdict(work.machine),
                "ceilings": asdict(ceilings),
                "groups": [{**asdict(group), "floor_s": floor_seconds(group, ceilings)} for group in work.groups],
            }
    return None


def _ratios(works: Sequence[SessionWork], ceilings: Sequence[Ceilings], flops: int, moved: int) -> Figures:
    pairs = list(zip(works, ceilings, strict=True))
    could_read = sum(work.busy_seconds * ceiling.read_bytes_per_s for work, ceiling in pairs)
    could_compute = sum(work.busy_seconds * ceiling.matmul_flops_per_s for work, ceiling in pairs)
    floor = sum(floor_seconds(group, ceiling) for work, ceiling in pairs for group in work.groups)
    measured = sum(work.measured_seconds for work in works)
    return {
        "mbu": moved / could_read if could_read else None,
        "mfu": flops / could_compute if could_compute else None,
        "floor_s": floor,
        "floor_share": floor / measured if measured else None,
    }


def _busy(works: Sequence[SessionWork]) -> Figures:
    measured = sum(work.measured_seconds for work in works)
    busy = sum(work.busy_seconds for work in works)
    own = [work.device_busy_seconds for work in works if work.device_busy_seconds is not None]
    whole = bool(own) and len(own) == len(works)
    return {
        "engine_busy_share": busy / measured if busy and measured else None,
        "device_busy_share": sum(own) / measured if whole and measured else None,
    }


def _no_device_time(works: Sequence[SessionWork]) -> str:
    if all(work.device_type == "cpu" for work in works):
        return "the engine ran on the CPU"
    return "the device does not tell how long it computed"
