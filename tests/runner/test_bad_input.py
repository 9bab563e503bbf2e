"""Every mistake gives one message that names the key, the value and what is allowed; exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runner.launch import NULL, articles, only_run, records, refused, run, run_dirs, succeed, write_rows

CASES = {
    "no recipe": ((), ["no recipe", "+recipe=NAME"]),
    "unknown recipe": (("+recipe=dmo",), ["'dmo'", "did you mean 'demo'?", "summarize_8b"]),
    "recipe without plus": (("recipe=demo",), ["recipe=demo", "+recipe=demo"]),
    "recipe as a command": (("demo",), ["'demo'", "list", "+recipe=NAME"]),
    "misspelt command": (("lst",), ["'lst'", "did you mean 'list'?"]),
    "unknown key": (
        ("+recipe=demo", "sampling.temperatur=0.5"),
        ["sampling.temperatur=0.5", "did you mean 'sampling.temperature'?", "top_p"],
    ),
    "unknown key in a mapping": (
        ("+recipe=throughput", "dataset.input_length={kind: uniform, mn: 5}"),
        ["unknown key dataset.input_length.mn; did you mean 'dataset.input_length.min'?", "kind, max, min"],
    ),
    "key of another engine": (
        ("+recipe=demo", "engine=transformers", "engine.preemption_mode=swap"),
        ["engine.preemption_mode=swap has no meaning for the kind of engine that is chosen"],
    ),
    "unknown key, added": (("+recipe=demo", "+engine.blocksize=1"), ["engine.blocksize=1", "'engine.block_size'"]),
    "unknown section": (("+recipe=demo", "+sampler.x=1"), ["sampler", "'sampling'"]),
    "unknown group option": (("+recipe=demo", "model=smolm2"), ["model='smolm2'", "did you mean 'smollm2'?", "minilm"]),
    "wrong type": (("+recipe=demo", "sampling.max_tokens=many"), ["sampling.max_tokens='many'", "integer"]),
    "wrong kind": (("+recipe=demo", "dataset.kind=json"), ["dataset.kind='json'", "csv", "did you mean 'jsonl'?"]),
    "key of another kind": (
        ("+recipe=demo", "engine.kind=null_engine"),
        ["engine.device='auto'", "engine.kind='null_engine'", "engine=null_engine"],
    ),
    "wrong choice": (("+recipe=demo", "engine.device=gpu"), ["engine.device='gpu'", "cpu, cuda"]),
    "out of range": (("+recipe=demo", "sampling.top_p=1.5"), ["sampling.top_p=1.5", "above 0 and at most 1"]),
    "rate above 1": (("+recipe=demo", "max_truncated_rate=10"), ["max_truncated_rate=10", "less than or equal to 1"]),
    "rate below 0": (("+recipe=demo", "max_error_rate=-0.1"), ["max_error_rate=-0.1", "greater than or equal to 0"]),
    "model argument": (("+recipe=demo", "model.dtype=bf16"), ["model.dtype='bf16'", "bfloat16"]),
    "missing value": (("+recipe=summarize",), ["dataset.path is required", "dataset.path=VALUE"]),
    "missing choice": (("name=x", "dataset=inline", "dataset.rows=[a]"), ["model.name is required", "model=NAME"]),
    "missing file": (
        ("+recipe=demo", "dataset.path=artcles.jsonl"),
        ["'artcles.jsonl'", "did you mean 'articles.jsonl'?"],
    ),
    "missing built-in file": (("+recipe=demo", "dataset.path=builtin:nothing.jsonl"), ["builtin:nothing.jsonl"]),
    "folder as file": (("+recipe=demo", "dataset.path=."), ["dataset.path='.'", "is a folder"]),
    "empty glob": (("+recipe=demo", "dataset.path=no*.jsonl"), ["dataset.path='no*.jsonl'", "matches no file"]),
    "empty dataset": (("+recipe=demo", "dataset.path=empty.jsonl"), ["empty", "empty.jsonl", "no rows"]),
    "missing column": (
        ("+recipe=demo", "dataset.path=articles.jsonl", "prompt.user='{{ artcle }}'"),
        ["prompt.user", "'artcle'", "did you mean 'article'?", "title"],
    ),
    "missing id column": (
        ("+recipe=demo", "dataset.path=articles.jsonl", "dataset.id_column=ids"),
        ["dataset.id_column='ids'", "did you mean 'id'?"],
    ),
    "missing kept column": (
        ("+recipe=demo", "dataset.path=articles.jsonl", "task.keep_columns=[titel]"),
        ["task.keep_columns", "'titel'", "did you mean 'title'?"],
    ),
    "template syntax": (("+recipe=demo", "prompt.user='{{ article'"), ["prompt.user", "line 1"]),
    "prompt of another task": (("+recipe=demo", "prompt.template=x"), ["prompt.template", "task=chat", "prompt.user"]),
    "sampling of an embedding": (("+recipe=embed", "sampling.top_p=0.5"), ["sampling.top_p=0.5", "task=embed"]),
    "override grammar": (("+recipe=demo", "dataset.path=[a"), ["dataset.path=[a", "key=value"]),
    "override without value": (("+recipe=demo", "progress"), ["'progress'", "key=value"]),
    "unknown interpolation": (("+recipe=demo", "sampling.seed=${nothing}"), ["nothing"]),
    "unwritable output": (
        ("+recipe=demo", "dataset.path=articles.jsonl", "output_root=articles.jsonl"),
        ["output_root='articles.jsonl'", "cannot be written"],
    ),
    "no folder of recipes": (("+recipe=demo", "--config-dir", "nothing"), ["--config-dir='nothing'", "folder"]),
    "no run to resume": (
        ("+recipe=demo", "dataset.path=articles.jsonl", "resume=nothing"),
        ["resume='nothing'", "no run folder"],
    ),
    "report of nothing": (("report", "nothing"), ["nothing"]),
    "max_tokens fills the model": (("+recipe=demo", "sampling.max_tokens=2048"), ["sampling.max_tokens=2048", "2048"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    articles(path, 2)
    (path / "empty.jsonl").write_text("\n\n")
    return path


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message(folder: Path, name: str) -> None:
    words, expected = CASES[name]
    message = refused(folder, *words)
    for part in expected:
        assert part in message
    assert not (folder / "outputs").exists()


def test_bad_yaml_is_named(folder: Path) -> None:
    (folder / "own").mkdir()
    (folder / "own" / "broken.yaml").write_text("sampling: [1\n")
    assert "broken.yaml" in refused(folder, "+recipe=broken", "--config-dir", "own")


def test_bad_lines_become_error_rows_with_their_numbers(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "title": "t", "article": "x"},
        '{"id": "b", "title": ',
        {"id": "a", "title": "t", "article": "again"},
        {"title": "t", "article": "no id"},
        "[1, 2]",
        {"id": "e", "title": "no article"},
        {"id": "f", "title": "t", "article": "y"},
    ]
    write_rows(tmp_path / "articles.jsonl", rows)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl")
    failed = run(tmp_path, *words)
    assert failed.returncode == 1
    assert "5 of 7 rows are in error" in failed.stderr
    assert "max_error_rate=0.0" in failed.stderr
    assert "Traceback" not in failed.stderr
    errors = records(only_run(tmp_path) / "errors.jsonl")
    assert [error["row"] for error in errors] == [1, 2, 3, 4, 5]
    assert "articles.jsonl line 2 is not JSON" in errors[0]["error"]
    assert "duplicate id 'a': row 2 has the id of row 0" in errors[1]["error"]
    assert "no value in the id column 'id'" in errors[2]["error"]
    assert "line 5 is not a JSON object but list" in errors[3]["error"]
    assert "'article' is undefined" in errors[4]["error"]
    assert [record["id"] for record in records(only_run(tmp_path) / "outputs.jsonl")] == ["a", "f"]
    succeed(tmp_path, *words, "max_error_rate=0.8")
    assert len(run_dirs(tmp_path)) == 2


def test_engine_errors_are_rows(tmp_path: Path) -> None:
    rows = ["short", "x" * 500, "short too"]
    succeed(
        tmp_path, "name=x", *NULL, "model.name=none", "dataset=inline", f"dataset.rows=[{','.join(rows)}]",
        "prompt.template='{{ text }}'", "engine.max_model_len=100", "max_error_rate=0.5",
    )  # fmt: skip
    (error,) = records(only_run(tmp_path, "x") / "errors.jsonl")
    assert error["row"] == 1
    assert "125 tokens" in error["error"]


def test_an_engine_that_fails_leaves_a_run_to_resume(tmp_path: Path) -> None:
    articles(tmp_path, 10)
    words = ("+recipe=demo", *NULL, "dataset.path=articles.jsonl")
    message = refused(tmp_path, *words, "engine.fail_after=4", code=1)
    assert "the null engine fails after 4 outputs" in message
    assert "resume with: runner" in message
    assert "4 rows are finished and kept" in message
    assert "RuntimeError" in (only_run(tmp_path) / "run.log").read_text()
