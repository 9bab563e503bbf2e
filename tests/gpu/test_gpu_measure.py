"""Ceilings, power, memory and device time of a real GPU: figures that agree with each other and with the engine's.

Run by hand on a machine with a GPU: ``pytest tests/gpu -m gpu``.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_workloads import write_model
from engine import LLM, SamplingParams
from engine.device import describe
from runner.measure.ceilings import find_ceilings, machine_of, measure_ceilings
from runner.measure.energy import memory
from runner.measure.power import PowerMeter
from runner.measure.roofline import floor_seconds

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_ceilings_are_between_the_data_sheets_and_a_third_of_them() -> None:
    found = measure_ceilings(torch.device("cuda"), torch.bfloat16)
    print(found)
    assert found.matmul_flops_per_s / found.read_bytes_per_s > 50  # operations per byte: every GPU since Ampere
    assert 0.7 < found.copy_bytes_per_s / found.read_bytes_per_s < 1.15


def test_energy_is_power_times_time() -> None:
    """While products run. The counter and the samples are separate figures of NVML's."""
    device = torch.device("cuda")
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    with PowerMeter(describe(device)["uuid"]) as meter:
        end = time.monotonic() + 6
        while time.monotonic() < end:
            a @ a
            torch.cuda.synchronize()
        integral = meter._integral
    reading = meter.stop()
    print(reading)
    assert reading.joules is not None, reading.reason
    assert reading.peak_watts is not None, reading.reason
    assert 30 < reading.peak_watts < 3000
    assert reading.joules == pytest.approx(integral, rel=0.35)  # power is an average over a second, so it lags


def test_the_engine_is_not_faster_than_the_machine(tmp_path: Path) -> None:
    model = write_model("llama1b", tmp_path, num_hidden_layers=8)
    with LLM(str(model), load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=2048) as llm:
        prompts = [{"prompt_token_ids": [10 + n] * 200} for n in range(128)]
        params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True, detokenize=False)
        for _ in range(2):  # the first time graphs are captured
            before = llm.stats()
            llm.generate(prompts, params, use_tqdm=False)
        stats = llm.stats()
    machine = machine_of(stats)
    assert machine is not None
    ceilings = find_ceilings(machine)
    seconds = stats.busy_seconds - before.busy_seconds
    floor = max((stats.bytes - before.bytes) / ceilings.read_bytes_per_s,
                (stats.flops - before.flops) / ceilings.matmul_flops_per_s)  # fmt: skip
    print(machine, ceilings, f"floor {floor:.3f} s, took {seconds:.3f} s")
    assert 0.05 < floor / seconds < 1.05
    assert sum(floor_seconds(group, ceilings) for group in stats.step_groups) <= stats.busy_seconds * 1.05
    assert all(value is not None and value > 100 for value in memory(stats)[0].values())
    if stats.device_busy_seconds is not None:
        assert 0.05 * stats.busy_seconds < stats.device_busy_seconds < 1.02 * stats.busy_seconds
