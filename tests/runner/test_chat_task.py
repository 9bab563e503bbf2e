"""The task ``chat``: templates from files, tools, answers taken apart; ``embed`` with long texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli import main
from runner.config import config_hash, identity
from tests.runner.launch import only_run, records, refused, write_rows
from tests.runner.test_recipes import composed, hydra
from tests.runner.test_recipes_for_real import here, run

__all__ = ["here", "hydra"]
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think> The answer is{% endif %}"
)
SHORT = ("sampling.max_tokens=8", "dataset.limit=2")


def test_template_file_and_parsers_reach_the_record(here: Path) -> None:
    (here / "t.jinja").write_text(THINKING)
    _, found = run(here, "chat", *SHORT, "task.chat_template=t.jinja", "task.reasoning_parser=auto")
    for row in found:
        assert row["message"] == {
            "role": "assistant",
            "content": None,
            "reasoning": row["output"].strip("\n") or None,
            "tool_calls": [],
            "errors": [],
        }
    assert any(row["output"].strip() for row in found)


@pytest.mark.usefixtures("hydra")
def test_the_template_counts_by_content(here: Path) -> None:
    def hashed(text: str, name: str) -> str:
        (here / name).write_text(text)
        return config_hash(identity(composed("+recipe=chat", f"task.chat_template={name}"), "data"))

    assert hashed(THINKING, "a.jinja") == hashed(THINKING, "b.jinja") != hashed(THINKING + "!", "a.jinja")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("task.chat_template=nowhere.jinja",), "task.chat_template: chat_template='nowhere.jinja' is no file"),
        (("model.chat_template='{% if'",), "model.chat_template: the chat template is no Jinja template"),
        (("+model.override_generation_config.temprature=1",), "did you mean 'temperature'"),
    ],
)
def test_wrong_template_is_one_message(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refused(tmp_path, "+recipe=chat", "tracking=none", *words)


def test_a_wrong_parser_is_the_rows_error(here: Path) -> None:
    words = ["+recipe=chat", "tracking=none", "progress=false", "engine.device=cpu", *SHORT, "task.tool_parser=hermez"]
    assert main([*words, "max_error_rate=1.0"]) == 0
    errors = records(only_run(here, "chat") / "errors.jsonl")
    assert len(errors) == 2
    assert "did you mean 'hermes'" in errors[0]["error"]


def test_long_texts_are_cut_for_embeddings(here: Path) -> None:
    write_rows(here / "long.jsonl", [{"id": "a", "text": "word " * 400}, {"id": "b", "text": "word"}])
    words = ("dataset=jsonl", "dataset.path=long.jsonl", "dataset.id_column=id", "task.keep_columns=[]")
    _, found = run(here, "embed", *words, "prompt.template='{{ text }}'", "task.truncate_prompt_tokens=-1")
    assert [row["prompt_tokens"] for row in found] == [256, 3]
