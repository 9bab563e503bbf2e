"""Searches: the goal, the space, and trials that are jobs like all others. Optuna's parts need the extra ``search``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from runner.errors import ConfigError
from runner.job import JobState
from runner.sweep.objective import best, objective_of
from runner.sweep.plan import PlannedJob, Variant
from runner.sweep.results import JobResult, variant_results
from tests.runner.launch import NULL, articles, refused, start, succeed
from tests.runner.sweep.sweeps import rows_of, states, sweep_in, table, wait_for

WORDS = ("-m", "+recipe=demo", *NULL, "dataset.path=articles.jsonl", "dataset.limit=null", "sampling.max_tokens=8",
         "engine.seconds_per_step=0.002", "engine.max_num_seqs=choice(1,2,4,12)")  # fmt: skip
GOAL = ("sweep.search.objective=output_tokens_per_s", "sweep.search.sampler=random", "sweep.search.seed=1")


def goal(objective: str, *constraints: str) -> Any:
    return objective_of({"objective": objective, "constraints": constraints})


def results(*flats: dict[str, float | None]) -> Any:
    jobs = [
        JobResult(PlannedJob(n, Variant(n, (), {"a": str(n)}), 1, False), JobState("finished"), flat)
        for n, flat in enumerate(flats, start=1)
    ]
    return variant_results(jobs)


def test_the_good_direction_is_known_or_named() -> None:
    assert goal("output_tokens_per_s").direction == "maximize"
    assert goal("ttft_ms/p99").direction == "minimize"
    assert goal("maximize  ttft_ms/p99").direction == "maximize"
    text = goal("minimize e2e_ms/p50", "ttft_ms/p99<2e3", " output_tokens_per_s >= 10").text
    assert text == "minimize e2e_ms/p50 with ttft_ms/p99 < 2000, output_tokens_per_s >= 10"


@pytest.mark.parametrize(
    ("objective", "constraints", "message"),
    [
        ("output_tokens_per_second", (), "did you mean 'output_tokens_per_s'"),
        ("ttft_ms", (), "no metric; did you mean 'ttft_ms/"),
        ("rows/total", (), "no good direction"),
        ("raise output_tokens_per_s", (), "must be maximize METRIC"),
        ("output_tokens_per_s", ("ttft_ms/p99 = 3",), "METRIC < NUMBER"),
        ("output_tokens_per_s", ("ttft_ms/p99 < 2s",), "METRIC < NUMBER"),
        ("output_tokens_per_s", ("ttft_ms/p98 < 2",), "no metric; did you mean 'ttft_ms/p9"),
    ],
)
def test_a_goal_that_cannot_be_meant_is_refused(objective: str, constraints: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        goal(objective, *constraints)
    assert message in str(caught.value)


def test_the_best_keeps_to_all_bounds() -> None:
    found = results(
        {"output_tokens_per_s": 90.0, "ttft_ms/p99": 2500.0},
        {"output_tokens_per_s": 70.0, "ttft_ms/p99": 2000.0},
        {"output_tokens_per_s": 60.0, "ttft_ms/p99": 10.0},
        {"output_tokens_per_s": 80.0, "ttft_ms/p99": None},
    )
    for sign, number in (("<=", 2), ("<", 3)):
        chosen = best(goal("output_tokens_per_s", f"ttft_ms/p99 {sign} 2000"), found)
        assert chosen is not None
        assert chosen.variant.number == number
    assert best(goal("output_tokens_per_s", "ttft_ms/p99 < 1"), found) is None
    fewest = best(goal("minimize output_tokens_per_s"), found)
    assert fewest is not None
    assert fewest.variant.number == 3


def test_ranges_become_optunas_distributions() -> None:
    pytest.importorskip("optuna", reason="the extra 'search' (Optuna) is not installed")
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    from runner.sweep.search import distribution

    expected = {
        "a=choice(1,2,x)": CategoricalDistribution(["1", "2", "x"]),
        "a=1,2": CategoricalDistribution(["1", "2"]),
        "a=range(1,9)": IntDistribution(1, 8),
        "a=range(8,65,8)": IntDistribution(8, 64, step=8),
        "a=interval(0.5,2)": FloatDistribution(0.5, 2.0),
        "a=int(interval(1,100))": IntDistribution(1, 100),
        "a=tag(log,interval(1,100))": FloatDistribution(1.0, 100.0, log=True),
        "a=tag(log,int(interval(1,100)))": IntDistribution(1, 100, log=True),
    }
    for text, wanted in expected.items():
        (override,) = OverridesParser.create().parse_overrides([text])
        assert distribution(override) == wanted, text


def test_a_search_finds_the_best_point_and_runs_none_twice(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra 'search' (Optuna) is not installed")
    articles(tmp_path, 12)
    words = (*WORDS, *GOAL, "sweep.search.trials=12", "hydra.launcher.jobs=2")
    bound = 'sweep.search.constraints=["running/peak < 12"]'
    result = succeed(tmp_path, *words, bound)
    sweep = sweep_in(tmp_path)
    lines = table(sweep)
    tried = [line["engine.max_num_seqs"] for line in lines]
    assert sorted(tried, key=int) == ["1", "2", "4", "12"]  # twelve trials, and each point once
    assert {line["state"] for line in lines} == {"finished"}
    text = (sweep.path / "report.md").read_text()
    assert "Search: maximize output_tokens_per_s with running/peak < 12" in text
    allowed = [line for line in lines if line["engine.max_num_seqs"] != "12"]
    seats = max(allowed, key=lambda line: float(line["output_tokens_per_s"]))["engine.max_num_seqs"]
    assert f", engine.max_num_seqs={seats}, with" in text.split("- Best:")[1].splitlines()[0]
    assert re.search(rf"best +variant \d+, engine.max_num_seqs={seats}, with", result.stdout)
    assert sweep.search is not None
    assert sweep.search["told"] == 12


@pytest.mark.parametrize(
    ("search", "outcome"),
    [
        (
            (GOAL[0], 'sweep.search.constraints=["rows/ok > 999"]'),
            "none: of 1 point that gave output_tokens_per_s none",
        ),
        (("sweep.search.objective='minimize e2e_ms/p99'",), "none: no point gave e2e_ms/p99"),
    ],
)
def test_a_search_that_finds_nothing_says_so(tmp_path: Path, search: tuple[str, ...], outcome: str) -> None:
    pytest.importorskip("optuna", reason="the extra 'search' (Optuna) is not installed")
    articles(tmp_path, 12)
    result = succeed(tmp_path, *WORDS, *search, "sweep.search.trials=1")
    assert f"best     {outcome}" in result.stdout
    assert f"- Best: {outcome}" in (sweep_in(tmp_path).path / "report.md").read_text()


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna", reason="the extra 'search' (Optuna) is not installed")
    articles(tmp_path, 40)
    words = (*WORDS[:-2], "engine.seconds_per_step=0.02", "engine.max_num_seqs=range(1,9)", *GOAL)
    process = start(tmp_path, *words, "sweep.search.trials=3")
    wait_for(process, tmp_path, lambda sweep: len(sweep.jobs) >= 2 and rows_of(sweep, 2) >= 3)
    process.kill()
    process.communicate()
    result = succeed(tmp_path, *words, "sweep.search.trials=4")
    assert "resuming the sweep" in result.stderr
    sweep = sweep_in(tmp_path)
    assert [state.standing for state in states(sweep)] == ["finished"] * len(sweep.jobs)
    assert states(sweep)[1].starts == 2
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{sweep.path / 'optuna.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    measured = {line["engine.max_num_seqs"]: float(line["output_tokens_per_s"]) for line in table(sweep)}
    for trial in study.trials:
        assert trial.value == pytest.approx(measured[str(trial.params["engine.max_num_seqs"])])


def test_what_a_search_cannot_do_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra 'search' (Optuna) is not installed")
    articles(tmp_path, 2)
    assert "needs ranges" in refused(tmp_path, *WORDS[:-1], *GOAL)
    assert "cases have no meaning" in refused(tmp_path, *WORDS, *GOAL, "sweep.cases=[{engine.seed: 1}]")
    assert "did you mean 'output_tokens_per_s'" in refused(
        tmp_path, *WORDS, "sweep.search.objective=output_token_per_s"
    )
    assert not (tmp_path / "outputs").exists()
