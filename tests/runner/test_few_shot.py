"""Worked examples: the same text before every row, declared once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runner.launch import NULL, articles, only_run, records, refused, run_dirs, succeed, write_rows

EXAMPLES = [{"title": "Bread", "topic": "food"}, {"title": "Rain", "topic": "weather"}]
KEEP = "task.keep_prompt=true"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    articles(tmp_path, 3)
    write_rows(tmp_path / "examples.jsonl", EXAMPLES)
    return tmp_path


TEXT = ("name=x", *NULL, "model.name=none", "dataset=jsonl", "dataset.path=articles.jsonl", KEEP,
        "prompt.template='{{ title }} is about'")  # fmt: skip
CHAT = ("name=x", *NULL, "model.name=none", "dataset=jsonl", "dataset.path=articles.jsonl", KEEP, "task=chat",
        "prompt.system='One word.'", "prompt.user='{{ title }}?'")  # fmt: skip


def shots(**keys: object) -> str:
    inner = ", ".join(f"{name}: {value}" for name, value in {"answer": "\"{{ ' ' + topic }}\"", **keys}.items())
    return "prompt.few_shot={" + inner + "}"


def test_a_text_begins_with_its_examples(folder: Path) -> None:
    succeed(folder, *TEXT, shots(path="examples.jsonl"))
    prompts = [row["prompt"] for row in records(only_run(folder, "x") / "outputs.jsonl")]
    before = "Bread is about food\n\nRain is about weather\n\n"
    assert prompts == [f"{before}Title {n} is about" for n in range(3)]


def test_a_conversation_has_them_as_turns(folder: Path) -> None:
    rows = "[{title: Bread, topic: food}, {title: Rain, topic: weather}]"
    succeed(folder, *CHAT, shots(rows=rows, limit=1))
    prompt = records(only_run(folder, "x") / "outputs.jsonl")[2]["prompt"]
    assert [(turn["role"], turn["content"]) for turn in prompt] == [
        ("system", "One word."), ("user", "Bread?"), ("assistant", " food"), ("user", "Title 2?"),
    ]  # fmt: skip


def test_changed_examples_are_another_run_and_a_moved_file_is_not(folder: Path) -> None:
    fail = ("engine.fail_after=1",)
    refused(folder, *TEXT, *fail, shots(path="examples.jsonl"), code=1)
    (folder / "examples.jsonl").rename(folder / "moved.jsonl")
    refused(folder, *TEXT, *fail, shots(path="moved.jsonl"), code=1)
    assert len(run_dirs(folder, "x")) == 1
    write_rows(folder / "moved.jsonl", EXAMPLES[:1])
    refused(folder, *TEXT, *fail, shots(path="moved.jsonl"), code=1)
    assert len(run_dirs(folder, "x")) == 2


CASES = {
    "no examples": ((*TEXT, shots()), ["prompt.few_shot.rows or path must be given"]),
    "both": ((*TEXT, shots(path="examples.jsonl", rows="[{title: a}]")), ["and not both"]),
    "no answer": ((*TEXT, "prompt.few_shot={path: examples.jsonl}"), ["prompt.few_shot.answer is required"]),
    "missing file": ((*TEXT, shots(path="exmples.jsonl")), ["prompt.few_shot.path", "did you mean 'examples.jsonl'?"]),
    "missing column": ((*TEXT, shots(rows="[{title: a}]")), ["prompt.few_shot", "example 0", "'topic' is undefined"]),
    "bad line": ((*TEXT, shots(path="broken.jsonl")), ["prompt.few_shot", "line 2 is not JSON"]),
    "with messages": (
        ("name=x", *NULL, "model.name=none", "dataset=jsonl", "dataset.path=articles.jsonl", "task=chat",
         "prompt.messages=turns", shots(path="examples.jsonl")),
        ["prompt.few_shot goes with prompt.user", "prompt.template"],
    ),
    "unknown key": ((*TEXT, shots(path="examples.jsonl", anser="x")), ["prompt.few_shot.anser"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message(folder: Path, name: str) -> None:
    write_rows(folder / "broken.jsonl", [EXAMPLES[0], "{"])
    words, expected = CASES[name]
    message = refused(folder, *words)
    for part in expected:
        assert part in message
    assert not (folder / "outputs").exists()
