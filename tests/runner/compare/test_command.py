"""``runner compare`` on folders: what it reads, what it says, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.cli import main
from tests.runner.compare.folders import figures, write_run
from tests.runner.launch import ROOT, environment, run, succeed

ROWS = [{"id": f"r{n}", "output": f"text {n}", "finish_reason": "stop", "prompt_tokens": 3} for n in range(4)]


def repeats(root: Path, count: int, slower: float = 1.0, first: float = 1.0, **more: Any) -> Path:
    """A folder of repeats at even or odd times, so that two of them are interleaved."""
    rng = np.random.default_rng([count, int(slower * 100)])
    for number in range(count):
        write_run(root / f"run{number}", figures(rng, 0.01, slower), started_at=first + 2 * number, **more)
    return root


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["compare", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_equal_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = repeats(tmp_path / "a", 5), repeats(tmp_path / "b", 5, first=2.0)
    code, text = said(capsys, str(a), str(b))
    assert code == 0
    assert "Same work" in text
    assert "Timings: no difference found (output throughput: at most " in text
    assert "Outputs: identical in all 1 rows." in text
    assert "in pairs (interleaved repeats" in text


def test_a_slower_set_is_worse_and_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = repeats(tmp_path / "a", 6), repeats(tmp_path / "b", 6, 1.1, first=2.0)
    code, text = said(capsys, str(a), str(b))
    assert code == 3
    assert "Timings: B is worse (output_tokens_per_s worse" in text
    code, text = said(capsys, str(b), str(a), "--json")
    data = json.loads(text)
    assert (code, data["timings"]) == (0, "better")
    (headline,) = [line for line in data["metrics"] if line["name"] == "output_tokens_per_s"]
    assert headline["verdict"] == "better"
    assert headline["difference"]["low_share"] < 0.1 < headline["difference"]["high_share"]


def test_single_runs_and_two_repeats_are_not_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = repeats(tmp_path / "a", 1), repeats(tmp_path / "b", 2, 2.0, first=2.0)
    code, text = said(capsys, str(a / "run0"), str(b))
    assert code == 0
    assert "Timings: not enough data (1 run; at least 3 repeats of each are needed)." in text
    assert "needs at least 3 repeats, there is 1" in text
    assert " worse" not in text


def test_a_percentile_with_too_few_samples_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = {"ttft_ms/p99": "needs at least 100 samples, there are 30"}
    for side in ("a", "b"):
        for number in range(3):
            flat = figures(np.random.default_rng(number), 0.01) | {"ttft_ms/p99": None}
            write_run(tmp_path / side / str(number), flat, notes=note)
    _, text = said(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    (line,) = [line for line in text.splitlines() if line.startswith("TTFT p99")]
    assert "not enough data [1]" in line
    assert "[1] needs at least 100 samples, there are 30" in text


def test_other_data_or_prompts_are_not_the_same_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", {}, config={"prompt": {"template": "A {{ text }}"}})
    manifest = {"dataset": {"digest": "sha256:e", "rows": 1}}
    b = write_run(tmp_path / "b", {}, config={"prompt": {"template": "B {{ text }}"}}, manifest=manifest)
    _, text = said(capsys, str(a), str(b))
    assert "NOT THE SAME WORK" in text
    assert "prompt.template: A {{ text }} in A, B {{ text }} in B" in text
    assert "dataset digest: sha256:d in A, sha256:e in B" in text


def test_outputs_that_differ_end_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", {}, records=ROWS)
    b = write_run(tmp_path / "b", {}, records=[*ROWS[:3], ROWS[3] | {"output": "text three"}])
    code, text = said(capsys, str(a), str(b))
    assert code == 4
    assert "Outputs: 1 of 4 rows differ." in text
    assert "r3: first differs at character 5\n    A  text 3\n    B  text three" in text


def test_repeats_that_disagree_among_themselves_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        rows = [*ROWS[:3], ROWS[3] | {"output": f"text {number}"}]
        write_run(tmp_path / "a" / str(number), {}, records=rows)
        write_run(tmp_path / "b" / str(number), {}, records=ROWS)
    _, text = said(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert "A's own repeats differ from its first run in up to 1 row." in text


def test_one_sweep_of_two_configurations_and_choosing_from_one_of_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seqs in (8, 16):
        repeats(tmp_path / "sweep" / str(seqs), 3, first=seqs / 8, config={"engine": {"max_num_seqs": seqs}})
    sweep = str(tmp_path / "sweep")
    _, text = said(capsys, sweep)
    assert "A: engine.max_num_seqs=8 (3 repeats)\nB: engine.max_num_seqs=16 (3 repeats)" in text
    assert "Settings that differ:\n  engine.max_num_seqs: 8 in A, 16 in B" in text
    repeats(tmp_path / "sweep" / "32", 3, config={"engine": {"max_num_seqs": 32}})
    code, text = said(capsys, sweep)
    assert code == 2
    assert "holds runs of 3 configurations" in text
    assert "engine.max_num_seqs: 16, 32, 8" in text or "engine.max_num_seqs: " in text
    code, text = said(capsys, f"{sweep}@engine.max_num_seqs=16", f"{sweep}@engine.max_num_seqs=32")
    assert code == 0
    assert "16 in A, 32 in B" in text
    code, text = said(capsys, f"{sweep}@engine.max_num_seq=16", f"{sweep}/32")
    assert code == 2
    assert "did you mean 'engine.max_num_seqs'?" in text
    code, text = said(capsys, f"{sweep}@engine.max_num_seqs=9", f"{sweep}/32")
    assert code == 2
    assert "no run has engine.max_num_seqs=9; there 16, 32, 8" in text


def test_values_are_chosen_as_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = [
        {"engine": {"rate": rate}, "prompt": {"template": template}, "sampling": {"stop": stop}}
        for rate, template, stop in ((0.001, "{{ q }}", ["a", "b"]), (0.5, "Say: {{ q }}, please", None))
    ]
    for number, config in enumerate(configs):
        repeats(tmp_path / "runs" / str(number), 3, config=config)
    runs = str(tmp_path / "runs")
    for first, second in (
        ("engine.rate=1e-3", "engine.rate=0.5"),
        ("prompt.template={{ q }}", "prompt.template=Say: {{ q }}, please"),
        ("sampling.stop=[a, b]", "sampling.stop=null"),
        ("engine.rate=0.001,prompt.template={{ q }}", "sampling.stop=null,engine.rate=5e-1"),
    ):
        code, text = said(capsys, f"{runs}@{first}", f"{runs}@{second}")
        assert code == 0, text
        assert "engine.rate: 0.001 in A, 0.5 in B" in text
    code, text = said(capsys, f"{runs}@prompt.template={{{{ p }}}}", runs)
    assert code == 2
    assert "no run has prompt.template={{ p }}; there 'Say: {{ q }}, please', '{{ q }}'" in text


def test_a_sweep_names_its_runs_and_warm_ups_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs lie beside the sweep's folder, which holds the plan and each job's state."""
    sweep, jobs = tmp_path / "x" / "sweep-1", []
    (sweep / "jobs").mkdir(parents=True)
    for number in range(1, 9):
        seqs, warmup = 8 * (1 + (number - 1) % 2), number <= 2
        flat = figures(np.random.default_rng(number), 0.01, 3.0 if warmup else 1.0)
        write_run(tmp_path / "x" / f"run{number}", flat, started_at=number, config={"engine": {"max_num_seqs": seqs}})
        jobs.append({"number": number, "warmup": warmup})
        (sweep / "jobs" / f"{number:03d}.state.json").write_text(json.dumps({"run_dir": f"../run{number}"}))
    jobs.append({"number": 9, "warmup": False})  # never began
    (sweep / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    for folder in (sweep, tmp_path / "x", tmp_path):
        code, text = said(capsys, str(folder))
        assert code == 0, text
        assert "A: engine.max_num_seqs=8 (3 repeats)\nB: engine.max_num_seqs=16 (3 repeats)" in text
        assert "Timings: no difference found" in text
    (sweep / "jobs" / "003.state.json").write_text("{")
    code, text = said(capsys, str(sweep))
    assert code == 2
    assert "is no sweep that can be read" in text


def test_globs_lists_and_unfinished_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = repeats(tmp_path / "a", 4), repeats(tmp_path / "b", 4, first=2.0)
    (a / "killed").mkdir()
    (a / "killed" / "journal.sqlite").touch()
    code, text = said(capsys, str(a), ",".join(str(b / f"run{n}") for n in range(3)))
    assert code == 0
    assert "(4 repeats)" in text
    assert "(3 repeats)" in text
    assert "Note: 1 unfinished runs of A are left out." in text
    _, text = said(capsys, str(a / "run[01]"), str(b))
    assert "(2 repeats)" in text


def test_bad_arguments_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = repeats(tmp_path / "first", 3)
    for words, message in (
        ([str(a), str(tmp_path / "frist")], "did you mean 'first'?"),
        ([], "takes one or two paths, 0 are given"),
        ([str(a), str(a)], "share the run"),
        ([str(a)], "holds runs of 1 configuration"),
        ([str(a), str(a), "--metric", "ttft"], "--metric=ttft is not allowed"),
        ([str(a), str(a), "--margin", "5"], "--margin=5.0 is not allowed"),
        ([str(a), str(a), "--marge"], "unrecognized arguments: --marge"),
        ([str(tmp_path / "first" / "run0" / ".."), str(a)], "share the run"),
    ):
        code, text = said(capsys, *words)
        assert code == 2, words
        assert text.startswith("error: "), text
        assert message in text, text
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no run" in said(capsys, str(empty), str(a))[1]
    (a / "run0" / "metrics.json").write_text("{")
    assert "not valid JSON" in said(capsys, str(a), str(empty))[1]


def test_it_imports_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    a, b = repeats(tmp_path / "a", 3), repeats(tmp_path / "b", 3, first=2.0)
    code = (
        "import sys; from runner.cli import main\n"
        f"assert main(['compare', {str(a)!r}, {str(b)!r}]) == 0\n"
        "heavy = {'torch', 'mlflow', 'transformers', 'pandas', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)


def test_runs_of_the_null_engine_end_to_end(tmp_path: Path) -> None:
    """Three interleaved repeats each: equal work, equal outputs, and a step that takes 40% longer is found."""
    words = ("+recipe=demo", "engine=null_engine", "tracking=none", "progress=false", "measure.roofline=false")
    for _ in range(3):
        for seconds in ("0.0010", "0.0014"):
            succeed(tmp_path, *words, f"engine.seconds_per_step={seconds}")
    result = run(tmp_path, "compare", "outputs/demo")
    assert result.returncode == 3, result.stderr
    assert "Same work" in result.stdout
    assert "engine.seconds_per_step: 0.001 in A, 0.0014 in B" in result.stdout
    assert "Timings: B is worse" in result.stdout
    assert "Outputs: identical in all 24 rows." in result.stdout
