"""What sets two sets apart beside their figures, and which runs are pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.compare.run_set import RunSet
from runner.compare.work import contrasts, interleaved, work_differences
from runner.report.run_files import read_run
from tests.runner.compare.folders import write_run


def at(root: Path, times: list[float]) -> RunSet:
    return RunSet("x", tuple(read_run(write_run(root / str(time), {}, started_at=time)) for time in times))


@pytest.mark.parametrize(
    ("a", "b", "pairs"),
    [
        ([1, 3, 5], [2, 4, 6], True),
        ([1, 4, 5], [2, 3, 6], True),  # A B B A A B
        ([1, 2, 3], [4, 5, 6], False),
        ([1, 2, 5], [3, 4, 6], False),
        ([1, 3], [2, 4, 6], False),
    ],
)
def test_neighbours_in_time_are_pairs(a: list[float], b: list[float], pairs: bool, tmp_path: Path) -> None:
    first, second = at(tmp_path / "a", a), at(tmp_path / "b", b)
    assert interleaved(first, second) is pairs
    apart = "All runs of one set came before" in " ".join(work_differences(first, second).notes)
    assert apart is (max(a) < min(b))


def test_where_data_lie_is_no_difference_and_what_they_are_is(tmp_path: Path) -> None:
    sets = []
    for name, digest in (("a", "d1"), ("b", "d1"), ("c", "d2")):
        config = {"dataset": {"path": f"/data/{name}.jsonl"}, "engine": {"seed": ord(name)}, "output_root": name}
        manifest = {
            "dataset": {"digest": digest, "source": f"/data/{name}.jsonl"},
            "environment": {"packages": {"torch": f"2.{ord(name)}"}},
        }
        folder = write_run(tmp_path / name, {}, config=config, manifest=manifest)
        sets.append(RunSet(name, (read_run(folder),)))
    same, other = work_differences(sets[0], sets[1]), work_differences(sets[0], sets[2])
    assert same.same
    assert [one.name for one in same.settings] == ["engine.seed"]
    assert [(one.name, one.a, one.b) for one in same.environment] == [("package torch", "2.97", "2.98")]
    assert [(one.name, one.a, one.b) for one in other.work] == [("dataset digest", "d1", "d2")]


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        ("sha256:" + "0" * 64, "sha256:" + "1" * 64, ("sha256:" + "0" * 64, "sha256:" + "1" * 64)),
        ("word " * 100 + "one", "word " * 100 + "two", ("… word word word word one", "… word word word word two")),
        ("one\ntwo", "one two", ('"one\\ntwo"', '"one two"')),
        (1, "1", ("1", '"1"')),
        (None, [1], ("nothing", "[1]")),
    ],
)
def test_what_differs_is_seen(a: object, b: object, shown: tuple[str, str]) -> None:
    assert [(one.a, one.b) for one in contrasts({"x": a}, {"x": b})] == [shown]
