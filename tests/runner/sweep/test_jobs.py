"""Jobs of a sweep: order, isolation, concurrency, and what is said of failures."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from runner.errors import ConfigError
from runner.job import Job, JobState, read_state, write_state
from runner.sweep import local
from runner.sweep.job_file import JobFile
from runner.sweep.local import LocalJobs
from runner.sweep.process import run_job
from runner.sweep.slots import Slot, slots
from tests.runner.launch import NULL, articles, environment, only_run, records, refused, run, run_dirs, start, succeed
from tests.runner.sweep.sweeps import QUICK, SLOW, outputs, rows_of, started_order, states, sweep_in, table, wait_for


def test_repeats_run_interleaved_each_in_a_run_of_its_own(tmp_path: Path) -> None:
    articles(tmp_path, 3)
    result = succeed(tmp_path, *QUICK, "engine.max_num_seqs=1,2", "sweep.repeats=2", "sweep.warmup=1")
    sweep = sweep_in(tmp_path)
    assert started_order(sweep) == [1, 2, 3, 4, 5, 6]
    lines = table(sweep)
    assert [(line["variant"], line["repeat"], line["warmup"]) for line in lines] == [
        ("1", "1", "true"), ("2", "1", "true"), ("1", "1", "false"), ("2", "1", "false"), ("1", "2", "false"),
        ("2", "2", "false"),
    ]  # fmt: skip
    assert {line["state"] for line in lines} == {"finished"}
    assert [line["rows/ok"] for line in lines] == ["3"] * 6
    assert [line["engine.max_num_seqs"] for line in lines] == ["1", "2"] * 3
    folders = {(sweep.path / line["run_dir"]).resolve() for line in lines}
    assert folders == {path.resolve() for path in run_dirs(tmp_path)}
    assert len({line["identity"] for line in lines}) == 2
    assert len(set(outputs(sweep))) == 1  # another batch size, the same rows
    text = (sweep.path / "report.md").read_text()
    assert "2 warm-up runs are listed and count in no figure." in text
    assert "| 1 | engine.max_num_seqs=1 | 2 |" in text  # two of its three runs count
    assert "Fewer than 3 repeats" in text
    assert str(sweep.path) in result.stdout


def test_a_recipe_with_a_section_sweeps_by_itself(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "pair.yaml").write_text(
        "# pair: linked\ndefaults: [demo]\nsweep:\n  cases:\n"
        "    - {sampling.max_tokens: 3, engine.max_num_seqs: 1}\n"
        "    - {sampling.max_tokens: 4, sampling.stop: ['a, b']}\n"
    )
    articles(tmp_path, 2)
    succeed(tmp_path, "+recipe=pair", *NULL, "dataset.path=articles.jsonl")
    sweep = sweep_in(tmp_path, "pair")
    configs = [yaml.safe_load((state.run_dir / "config.yaml").read_text()) for state in states(sweep) if state.run_dir]
    assert [(c["sampling"]["max_tokens"], c["engine"]["max_num_seqs"]) for c in configs] == [(3, 1), (4, 256)]
    assert configs[1]["sampling"]["stop"] == ["a, b"]
    folder = states(sweep)[1].run_dir
    assert folder is not None
    command = json.loads((folder / "manifest.json").read_text())["command"]
    succeed(tmp_path, *command[1:])  # one job alone, and no sweep
    (alone,) = set(run_dirs(tmp_path, "pair")) - {state.run_dir for state in states(sweep)}
    assert (alone / "outputs.jsonl").read_bytes() == outputs(sweep)[1]
    assert len(list((tmp_path / "outputs" / "pair").glob("sweep-*"))) == 1


def test_recipes_are_swept_into_one_sweep(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for name, tokens in (("short", 2), ("shorter", 1)):
        (tmp_path / "recipes" / f"{name}.yaml").write_text(
            f"# {name}: x\ndefaults: [demo]\nsampling: {{max_tokens: {tokens}}}\n"
        )
    (tmp_path / "recipes" / "shortest.yaml").write_text("# shortest: x\ndefaults: [demo]\nsweep: {repeats: 2}\n")
    articles(tmp_path, 2)
    result = run(tmp_path, "-m", "+recipe=glob(short*)", *NULL, "++dataset.path=articles.jsonl")
    assert result.returncode == 2  # a recipe that sweeps by itself is refused, and alone
    assert "this recipe has a sweep of its own (sweep): run it by itself" in result.stdout
    sweep = sweep_in(tmp_path, "sweeps")
    assert [state.standing for state in states(sweep)] == ["finished", "finished", "failed"]
    for name in ("short", "shorter"):
        assert len(records(only_run(tmp_path, name) / "outputs.jsonl")) == 2


def test_an_exception_leaves_the_others_running_and_is_named(tmp_path: Path) -> None:
    articles(tmp_path, 6)
    result = run(tmp_path, *QUICK, "engine.fail_after=null,2,null", "sweep.repeats=1")
    assert result.returncode == 1, result.stderr
    sweep = sweep_in(tmp_path)
    assert [state.standing for state in states(sweep)] == ["finished", "failed", "finished"]
    cause = "the null engine fails after 2 outputs"
    assert cause in result.stderr
    assert cause in result.stdout
    assert cause in table(sweep)[1]["error"]
    assert cause in (sweep.path / "report.md").read_text()
    assert "1 of 3 jobs failed" in result.stderr
    assert "Traceback" not in result.stderr
    assert "resume with: runner" in result.stderr


def test_a_killed_job_leaves_the_others_running_and_is_resumed(tmp_path: Path) -> None:
    articles(tmp_path, 40)
    words = (*SLOW[:-3], *SLOW[-2:], "sampling.max_tokens=6,7,8")
    process = start(tmp_path, *words, "hydra.launcher.jobs=3")
    sweep = wait_for(process, tmp_path, lambda sweep: rows_of(sweep, 2) >= 3)
    pid = sweep.state(sweep.jobs[1]).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 1, err
    assert [state.standing for state in states(sweep)] == ["finished", "failed", "finished"]
    assert "its process was killed by SIGKILL" in err
    assert "its process was killed by SIGKILL" in out
    before = [(state.run_dir, state.starts, state.ended_at) for state in states(sweep)]
    kept = rows_of(sweep, 2)
    assert 3 <= kept < 40
    succeed(tmp_path, *words, "hydra.launcher.jobs=3")
    after = [(state.run_dir, state.starts, state.ended_at) for state in states(sweep_in(tmp_path))]
    assert (after[0], after[2]) == (before[0], before[2])  # nothing that was finished ran again
    assert after[1][:2] == (before[1][0], 2)
    assert len(run_dirs(tmp_path)) == 3
    assert len(set(outputs(sweep)[1].splitlines())) == 40


def test_jobs_run_side_by_side_when_asked(tmp_path: Path) -> None:
    articles(tmp_path, 8)
    words = ("sampling.max_tokens=6,7,8,9", "engine.startup_seconds=2")
    succeed(tmp_path, *QUICK[:-1], *words, "hydra.launcher.jobs=2")
    found = [(state.started_at or 0.0, state.ended_at or 0.0) for state in states(sweep_in(tmp_path))]
    moments = sorted({moment for span in found for moment in span})
    together = [sum(begin <= moment < end for begin, end in found) for moment in moments]
    assert max(together) == 2
    assert found[1][0] < found[0][1]


def test_fail_fast_stops_what_runs_and_starts_nothing(tmp_path: Path) -> None:
    articles(tmp_path, 200)
    words = (*SLOW, "engine.fail_after=null,2,3", "hydra.launcher.jobs=2", "hydra.launcher.fail_fast=true")
    result = run(tmp_path, *words)
    assert result.returncode == 1
    sweep = sweep_in(tmp_path)
    assert [state.standing for state in states(sweep)] == ["killed", "failed", "planned"]
    assert "1 of 3 jobs failed, 2 were not run" in result.stderr
    assert rows_of(sweep, 1) < 200
    assert len(run_dirs(tmp_path)) == 2


def test_what_is_wrong_everywhere_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    articles(tmp_path, 2)
    assert "sampling.max_tokens=-1" in refused(tmp_path, *QUICK[:-1], "sampling.max_tokens=-1,-2")
    assert not (tmp_path / "outputs").exists()
    message = refused(tmp_path, *QUICK, "sweep.repeats=0")
    assert "sweep.repeats=0 is not allowed" in message
    assert "jobs=0" in refused(tmp_path, *QUICK, "hydra.launcher.jobs=0")


def test_a_job_without_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    (tmp_path / "jobs").mkdir()
    monkeypatch.setattr("runner.run.run", no_memory)
    monkeypatch.setattr("runner.config.parse", lambda _: None)
    job = Job(tmp_path, 1, 1, 1, False)
    assert run_job(JobFile(job, {}, ["runner"], False)) == 1
    state = read_state(job)
    assert (state.standing, state.error) == ("failed", "MemoryError")


def test_a_kill_for_want_of_memory_is_told_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom_kill 3\n")
    monkeypatch.setattr(local, "MEMORY_EVENTS", events)

    class Ended:
        returncode = -signal.SIGKILL

    running = local._Running(JobFile(Job(tmp_path, 1, 1, 1, False), {}, [], False), Slot("", {}), Ended(), 2)  # type: ignore[arg-type]
    jobs = LocalJobs([], False, {})
    assert jobs._cause(running, -9) == "its process was killed by SIGKILL: its container ran out of memory"
    assert "somebody may also have killed it" in jobs._cause(dataclasses.replace(running, oom_kills=3), -9)


def test_gpus_are_leased_to_one_job_at_a_time(tmp_path: Path) -> None:
    articles(tmp_path, 6)
    succeed(tmp_path, *SLOW[1:])
    config = yaml.safe_load((only_run(tmp_path) / "config.yaml").read_text())
    config["dataset"]["path"] = str(tmp_path / "articles.jsonl")
    config["output_root"] = str(tmp_path / "leased")
    (tmp_path / "jobs").mkdir()
    files = []
    for number in range(1, 6):
        resolved = config | {"engine": config["engine"] | {"max_num_seqs": number, "startup_seconds": 0.5}}
        files.append(JobFile(Job(tmp_path, number, number, 1, False), resolved, ["runner"], True))
        files[-1].write()
    places = slots(None, True, {"CUDA_VISIBLE_DEVICES": "4,GPU-abc"})
    assert [place.environment for place in places] == [
        {"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "GPU-abc"},
    ]  # fmt: skip
    LocalJobs(places, False, environment()).run(files)
    seen: dict[str, list[tuple[float, float]]] = {}
    for file in files:
        state = read_state(file.job)
        assert state.standing == "finished", state.error
        assert state.run_dir is not None
        manifest = json.loads((state.run_dir / "manifest.json").read_text())
        gpu = manifest["environment"]["variables"]["CUDA_VISIBLE_DEVICES"]
        seen.setdefault(gpu, []).append((state.started_at or 0.0, state.ended_at or 0.0))
    assert seen.keys() == {"4", "GPU-abc"}
    for spans in seen.values():
        ordered = sorted(spans)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(ordered))


def test_places_on_this_machine() -> None:
    assert [place.environment for place in slots(None, False, {"CUDA_VISIBLE_DEVICES": "0,1"})] == [{}]
    assert len(slots(1, True, {"CUDA_VISIBLE_DEVICES": "0,1,2"})) == 1
    assert len(slots(None, True, {"CUDA_VISIBLE_DEVICES": "-1"})) == 1
    four = slots(4, False, {"OMP_NUM_THREADS": "64"})
    assert len(four) == 4
    assert four[0].environment["OMP_NUM_THREADS"] == str(max(1, (os.cpu_count() or 1) // 4))
    for wrong in (0, -1, True, "two"):
        with pytest.raises(ConfigError, match=r"hydra\.launcher\.jobs"):
            slots(wrong, False, {})  # type: ignore[arg-type]


def test_a_sweeps_folder_can_be_moved(tmp_path: Path) -> None:
    articles(tmp_path, 2)
    words = (*QUICK, "engine.max_num_seqs=1,2")
    succeed(tmp_path, *words)
    sweep = sweep_in(tmp_path)
    assert "nothing to carry on" in refused(tmp_path, *words, f"resume={sweep.path}")
    before = (sweep.path / "table.csv").read_bytes()
    shutil.move(str(tmp_path / "outputs"), str(tmp_path / "elsewhere"))
    moved = tmp_path / "elsewhere" / sweep.path.relative_to(tmp_path / "outputs")
    (moved / "report.html").unlink()
    result = succeed(tmp_path, "report", str(moved))
    assert str(moved / "report.html") in result.stdout
    assert "2 finished" in (moved / "report.md").read_text()
    assert (moved / "table.csv").read_bytes() == before


def test_a_state_survives_its_file(tmp_path: Path) -> None:
    job = Job(tmp_path / "sweep", 7, 2, 1, True, {"a": "1"})
    (job.sweep_dir / "jobs").mkdir(parents=True)
    assert read_state(job) == JobState()
    state = JobState("failed", tmp_path / "run", "no luck", 1, True, 2, 1.0, 2.0, 3, "here")
    write_state(job, state)
    assert read_state(job) == state


def test_a_requirement_that_is_not_met_is_named_and_the_job_is_complete(tmp_path: Path) -> None:
    articles(tmp_path, 3)
    words = (*QUICK[:-1], "sampling.max_tokens=4,40", "metrics=[{kind: length}]", "require=['output_characters < 60']")
    result = run(tmp_path, *words)
    assert result.returncode == 3, result.stderr
    sweep = sweep_in(tmp_path)
    assert [(state.standing, state.exit_code) for state in states(sweep)] == [("finished", 0), ("finished", 3)]
    assert "1 of 2 jobs do not meet their requirements" in result.stderr
    assert "output_characters" in result.stdout
    text = (sweep.path / "report.md").read_text()
    assert "do not meet their requirements: 1" in text
    assert "Characters" in text  # what the recipe judges is in the table of variants
    assert "resume with" not in result.stderr
