"""docs/recipes.md says what the code does: every key, every option, every field of a record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.compare.command import OUTPUTS_DIFFER, USAGE, WORSE
from runner.config.keys import known_keys
from runner.recipes import BUILT_IN
from runner.sink.requests import requests_schema
from tests.runner.launch import NULL, ROOT, only_run, records, succeed, write_rows

RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def named(text: str) -> set[str]:
    """The names that a page has in code spans."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"[^A-Za-z0-9_]+", code)}


NAMED = named(RECIPES).union(
    *(named((ROOT / "docs" / page).read_text(encoding="utf-8")) for page in ("load.md", "datasets.md", "peers.md"))
)
SWEEPS = named((ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("section", sorted(known_keys()))
def test_every_key_is_named(section: str) -> None:
    more = named(API) if section in ("engine", "sampling") else SWEEPS if section.startswith("sweep") else set()
    pages = NAMED | more
    assert set(known_keys()[section]) <= pages | {"kind"}


@pytest.mark.parametrize("group", sorted(p.name for p in BUILT_IN.iterdir() if p.is_dir() and p.name != "recipe"))
def test_every_option_of_every_group_is_named(group: str) -> None:
    assert {path.stem for path in (BUILT_IN / group).glob("*.yaml")} <= NAMED


def test_the_fields_of_records_are_those_that_are_listed(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"text": "a"}, "broken", {"text": ""}])
    succeed(
        tmp_path, "name=x", *NULL, "model.name=none", "dataset=jsonl", "dataset.path=rows.jsonl", "max_error_rate=1.0",
        "prompt.template='{{ text }}'", "task.keep_prompt=true", "task.keep_token_ids=true", "task.keep_columns=[text]",
    )  # fmt: skip
    (done,) = records(only_run(tmp_path, "x") / "outputs.jsonl")
    listed = re.findall(r"^\| `(\w+)`", RECIPES[RECIPES.index("A row that finished") :], flags=re.MULTILINE)
    assert [name for name in done if name != "text"] == [name for name in listed if name in done]
    assert "error" not in done
    unread, empty = records(only_run(tmp_path, "x") / "errors.jsonl")
    assert list(unread) == ["id", "row", "finish_reason", "error"]
    assert (unread["id"], unread["row"]) == (None, 1)
    assert list(empty) == ["id", "row", "text", "prompt", "finish_reason", "error"]
    assert set(requests_schema().names) <= NAMED


def test_the_page_on_comparisons_names_arguments_and_exit_codes() -> None:
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--\w+", USAGE)) == set(re.findall(r"`(--\w+)", page))
    for code in (WORSE, OUTPUTS_DIFFER):
        assert f"| {code} |" in page
