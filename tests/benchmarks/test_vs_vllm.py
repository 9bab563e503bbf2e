"""The comparison script on the CPU: a tiny model, and a stand-in for vLLM that answers, dies or hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 32000,
}  # fmt: skip
STAND_IN = """
import os, time
from types import SimpleNamespace as N
class SamplingParams:
    def __init__(self, **fields): self.fields = fields
class LLM:
    def __init__(self, **fields):
        print("libraries may print")
        self.calls = 0
    def generate(self, prompts, params, use_tqdm):
        time.sleep(0.01)
        self.calls += 1
        if {ends}: {end}
        return [N(outputs=[N(token_ids=[7] * p.fields["max_tokens"])]) for p in params]
"""


def compare(tmp_path: Path, stand_in: str | None, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Run the script; its exit code, what it printed and what it wrote."""
    site = tmp_path / "site"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text(stand_in or "raise ImportError('no such engine')")
    out = tmp_path / "out" / "comparison.json"
    command = [sys.executable, str(ROOT / "benchmarks/vs_vllm.py"), "--out", str(out), "--logs", str(tmp_path / "logs")]
    command += ["--models", "llama1b", "--workloads", "single,bursty", "--requests", "5", "--tokens", "12"]
    command += ["--repeats", "2", "--changes", json.dumps(TINY), "--vllm-path", str(site), *options]
    command += ["--galley-arguments", json.dumps({"device": "cpu", "kv_cache_memory_bytes": 1 << 26})]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, json.loads(out.read_text())


def test_both_engines_get_the_same_work_and_all_repeats_are_kept(tmp_path: Path) -> None:
    code, printed, written = compare(tmp_path, STAND_IN.format(ends="False", end="pass"))
    assert code == 0, printed
    repeats = [row for row in written["rows"] if row["event"] == "repeat"]
    assert len(repeats) == 2 * 2 * 2
    for kind in ("single", "bursty"):
        asked = [row["asked"] for row in repeats if row["workload"] == kind]
        assert asked[:2] == asked[2:]
        assert asked[0] != asked[1], "each repeat has its own requests"
    line = written["table"][1]
    assert line["workload"] == "bursty"
    assert line["median_ratio"] == pytest.approx(sum(line["galley"]) / sum(line["vllm"]), rel=0.02)
    assert "| llama1b | bursty |" in printed
    assert [row["startup_s"] > 0 for row in written["rows"] if row["event"] == "ready"] == [True] * 3


@pytest.mark.parametrize(
    ("stand_in", "reason", "rows"),
    [
        pytest.param(None, "vllm cannot be imported: no such engine", 0, id="not there"),
        pytest.param(STAND_IN.format(ends="self.calls == 3", end="os._exit(9)"), "ended with code 9", 1, id="dies"),
        pytest.param(STAND_IN.format(ends="self.calls == 3", end="time.sleep(60)"), "killed after 5 s", 1, id="hangs"),
    ],
)
def test_a_failing_child_is_a_row(tmp_path: Path, stand_in: str | None, reason: str, rows: int) -> None:
    options = ("--engines", "vllm") if stand_in is None else ("--engines", "vllm", "--timeout", "5")
    code, printed, written = compare(tmp_path, stand_in, *options)
    assert code == 1
    events = [row["event"] for row in written["rows"]]
    assert events.count("repeat") == rows, "what was measured before survives"
    assert events[-1] == "failed"
    assert reason in written["rows"][-1]["reason"]
    assert reason in printed
