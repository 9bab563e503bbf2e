"""MBU, MFU, floor, energy: by hand, over sessions, and with what is missing said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.costs import StepGroup
from engine.stats import EngineStats
from runner.measure import ceilings as module
from runner.measure.ceilings import Ceilings, CeilingsError, Machine, ceilings_file, find_ceilings, machine_of
from runner.measure.energy import energy, memory, no_meter
from runner.measure.power import PowerReading
from runner.measure.roofline import ceilings_of, roofline, roofline_detail
from runner.measure.session_work import SessionWork
from runner.run_info import Session

GPU = Machine("cuda", "Example GPU", "bfloat16", "", "2.11")
ROOF = Ceilings(read_bytes_per_s=100.0, copy_bytes_per_s=90.0, matmul_flops_per_s=1000.0)
DECODE = StepGroup(steps=4, flops=800, bytes=400, seconds=6.0)  # floor 4 s: the bytes
PREFILL = StepGroup(steps=1, flops=3000, bytes=50, seconds=4.0)  # floor 3 s: the operations


def work(session: int = 1, **changes: Any) -> SessionWork:
    power = PowerReading(20.0, 6000.0, 300.0, 400.0, "counter")
    base = SessionWork(session, 20.0, 10.0, 9.0, (DECODE, PREFILL), "cuda", GPU, power)
    return replace(base, **changes)


def session(number: int = 1, measured: float = 20.0) -> Session:
    return Session(number, 0.0, 1.0, measured, 1, "FINISHED")


def test_by_hand() -> None:
    metrics, notes = roofline([work()], {GPU: ROOF})
    assert notes == {}
    assert metrics["mbu"] == pytest.approx(450 / (10 * 100))
    assert metrics["mfu"] == pytest.approx(3800 / (10 * 1000))
    assert metrics["floor_s"] == pytest.approx(4 + 3)
    assert metrics["floor_share"] == pytest.approx(7 / 20)
    assert metrics["arithmetic_intensity"] == pytest.approx(3800 / 450)
    assert (metrics["work/tflop"], metrics["work/gb"]) == (3800 / 1e12, 450 / 1e9)
    assert metrics["ceiling/read_gb_per_s"] == pytest.approx(1e-7)
    assert (metrics["engine_busy_share"], metrics["device_busy_share"]) == (0.5, 0.45)


def test_sessions_sum_each_with_the_ceilings_of_its_machine() -> None:
    other, slow = replace(GPU, name="Slower GPU"), replace(ROOF, read_bytes_per_s=50.0, matmul_flops_per_s=500.0)
    works = [work(1), work(2, machine=other, measured_seconds=30.0)]
    metrics, _ = roofline(works, {GPU: ROOF, other: slow})
    assert metrics["floor_s"] == pytest.approx(7 + 14)
    assert metrics["floor_share"] == pytest.approx(21 / 50)
    assert metrics["mbu"] == pytest.approx(900 / (10 * 100 + 10 * 50))
    assert metrics["mfu"] == pytest.approx(7600 / (10 * 1000 + 10 * 500))
    assert metrics["ceiling/read_gb_per_s"] == pytest.approx(5e-8)  # of the last session
    detail = roofline_detail(works, {GPU: ROOF, other: slow})
    assert detail is not None
    assert (detail["sessions"], detail["session"], detail["machine"]["name"]) == ([1, 2], 2, "Slower GPU")
    assert [group["floor_s"] for group in detail["groups"]] == pytest.approx([8, 6])


def test_a_missing_ceiling_is_said_and_the_work_stays() -> None:
    metrics, notes = roofline([work()], {GPU: "it was far away"})
    assert metrics["work/gb"] == 450 / 1e9
    assert {name for name, value in metrics.items() if value is None} == set(notes)
    assert notes["mbu"] == notes["floor_s"] == notes["ceiling/read_gb_per_s"] == "it was far away"
    assert roofline_detail([work()], {GPU: "it was far away"}) is None


@pytest.mark.parametrize(
    ("works", "reason"),
    [
        ([], "no session noted what its engine did"),
        ([work(groups=(), machine=None)], "the engine does not count what its steps compute"),
    ],
)
def test_without_work_nothing_is_made_up(works: list[SessionWork], reason: str) -> None:
    metrics, notes = roofline(works, {})
    for name in ("mbu", "mfu", "floor_s", "work/gb", "ceiling/read_gb_per_s"):
        assert (metrics[name], notes[name]) == (None, reason)


def test_a_cpu_has_no_gpu_figures() -> None:
    on_cpu = work(device_busy_seconds=None, device_type="cpu", power=PowerReading(20.0, reason=no_meter("cpu", True)))
    assert roofline([on_cpu], {GPU: ROOF})[1] == {"device_busy_share": "the engine ran on the CPU"}
    metrics, notes = energy([on_cpu], [session()], 10)
    assert set(metrics.values()) == {None}
    assert set(notes.values()) == {"the engine ran on the CPU"}
    metrics, notes = memory(EngineStats(device={"type": "cpu"}))
    assert set(metrics.values()) == {None}
    assert set(notes.values()) == {"the engine ran on the CPU"}


def test_energy_sums_over_sessions() -> None:
    second = PowerReading(10.0, 1500.0, 150.0, 500.0, "samples")
    metrics, notes = energy([work(1), work(2, power=second)], [session(1), session(2)], 250)
    assert notes == {}
    assert metrics["energy_j"] == 7500
    assert metrics["energy_j_per_output_token"] == 30
    assert metrics["power_w/mean"] == 250
    assert metrics["power_w/peak"] == 500


def test_energy_is_whole_or_not_given() -> None:
    metrics, notes = energy([work(2)], [session(1), session(2)], 250)
    assert set(metrics.values()) == {None}
    assert set(notes.values()) == {"session 1 was killed and noted nothing"}
    assert energy([work(2)], [session(1, measured=0.0), session(2)], 250)[1] == {}  # it never came to a measured phase
    metrics, notes = energy([work()], [session()], 0)
    assert metrics["energy_j"] == 6000
    assert notes == {"energy_j_per_output_token": "no output tokens"}
    peakless = PowerReading(20.0, 6000.0, 300.0, None, "counter", "NVML gave no power: gone")
    assert energy([work(power=peakless)], [session()], 5)[1] == {"power_w/peak": "NVML gave no power: gone"}


def test_gpu_memory() -> None:
    stats = EngineStats(device={"type": "cuda"}, peak_allocated_bytes=3 * 2**20, peak_reserved_bytes=2**22)
    assert memory(stats) == ({"device_memory_mib/allocated": 3, "device_memory_mib/reserved": 4}, {})


def test_a_session_survives_the_journal() -> None:
    for one in (work(), work(machine=None, device_busy_seconds=None, groups=())):
        assert SessionWork.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_session_is_what_the_engine_says() -> None:
    stats = EngineStats(
        busy_seconds=3.0, step_groups=(DECODE,), device={"type": "cpu", "name": "X", "threads": "2"},
        numerics={"dtype": "float32", "torch": "2.13"},
    )  # fmt: skip
    noted = SessionWork.of(4, 5.0, stats, PowerReading(5.0))
    assert (noted.session, noted.flops, noted.bytes) == (4, 800, 400)
    assert noted.machine == Machine("cpu", "X", "float32", "2", "2.13")
    assert machine_of(EngineStats(device={"name": "null engine"})) is None


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """This machine's CPU, with ceilings that take no time and a cache folder of its own."""
    import torch

    from engine.device import describe

    monkeypatch.setenv("GALLEY_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "measure_ceilings", lambda device, dtype: ROOF)
    device = describe(torch.device("cpu"))
    return Machine("cpu", device["name"], "float32", device["threads"], torch.__version__)


def test_ceilings_are_measured_once_and_kept(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_ceilings(here) == ROOF
    kept = json.loads(ceilings_file(here).read_text())
    assert kept["name"] == here.name
    monkeypatch.setattr(module, "measure_ceilings", lambda device, dtype: pytest.fail("measured again"))
    assert find_ceilings(here) == ROOF


def test_a_damaged_file_is_measured_again(here: Machine) -> None:
    ceilings_file(here).parent.mkdir()
    ceilings_file(here).write_text('{"read_bytes_per_s": 1')
    assert find_ceilings(here) == ROOF


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "Another CPU"}, "the ceilings of Another CPU were not measured, and this is another machine"),
        ({"threads": "999"}, "another machine or setting"),
        ({"dtype": "float8_e4m3fn"}, "there is no ceiling for float8_e4m3fn"),
        ({"type": "cuda", "name": "Example GPU"}, "the ceilings of Example GPU were not measured"),
    ],
)
def test_ceilings_of_elsewhere_are_not_made_up(here: Machine, changes: dict[str, str], reason: str) -> None:
    with pytest.raises(CeilingsError, match=reason):
        find_ceilings(replace(here, **changes))


def test_a_run_that_went_through_its_ceilings_has_them_measured_again(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_ceilings(here)
    monkeypatch.setattr(module, "measure_ceilings", lambda device, dtype: Ceilings(300.0, 80.0, 900.0))
    fast = work(machine=here, busy_seconds=6.0)  # the floor is 7
    assert ceilings_of([work(machine=here)], True) == {here: ROOF}
    assert ceilings_of([fast], True) == {here: Ceilings(300.0, 90.0, 1000.0)}  # the better of both
    assert find_ceilings(here).read_bytes_per_s == 300.0
    assert ceilings_of([fast], False) == {here: "measure.roofline is off"}


def test_this_machines_ceilings_make_sense() -> None:
    import torch

    found = module.measure_ceilings(torch.device("cpu"), torch.float32)
    assert 1e8 < found.read_bytes_per_s < 1e13
    assert 1e8 < found.copy_bytes_per_s < 1e13
    assert found.matmul_flops_per_s > 1e9
    buffer = module._random_buffer(torch.device("cpu"))
    assert buffer.numel() * 4 >= 32 * 2**20
    assert buffer.std() > 0.9  # no zeros, no constant
