"""Every command that the README and docs/ show is run, on the null engine and over a few rows.

The sweeps of docs/sweeps.md are composed job by job in tests/runner/sweep/test_declared.py, and smaller ones run there.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from runner.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "sweeps"))
NULL = ("engine=null_engine", "tracking=none", "progress=false", "max_error_rate=1.0")
FEWER = {
    "saturation_demo": ("load.trial_requests=40", "load.rate_max=60", "load.attainment=0.1"),
    "load_demo": ("dataset.limit=12",),
    "summarize": ("dataset.limit=1",),
}
FASTER = ("load.rate=2", "load.duration_s=1")  # for a command that names both


def documented() -> list[str]:
    """Commands of ``runner``, each once."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"^```(?:\w+)?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            found += [line for line in block.splitlines() if line.startswith("runner ")]
    return sorted({shlex.join(shlex.split(line, comments=True)) for line in found})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the commands name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "sea.txt").write_text("The sea is wide.")
    (tmp_path / "questions.jsonl").write_text('{"id": "q", "question": "Why?"}\n')
    (tmp_path / "lines.jsonl").write_text('{"id": "l", "text": "A line."}\n')
    body = {"model": "any", "messages": [{"role": "user", "content": "Why?"}]}
    request = {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "requests.jsonl").write_text(json.dumps(request) + "\n")
    return tmp_path


def test_there_are_commands() -> None:
    assert len(documented()) > 12


@pytest.mark.parametrize("command", documented())
def test_command(command: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    if not any("+recipe=" in word for word in words):
        words = _with_runs(words, here)
        assert main(words) == 0
        assert capfd.readouterr().out.strip()
        return
    (recipe,) = (word.removeprefix("+recipe=") for word in words if word.startswith("+recipe="))
    showing = "--cfg" in words
    flags = words[words.index("--cfg") :] if showing else []
    assert main([*(word for word in words if word not in flags), *_fewer(recipe, words), *NULL, *flags]) == 0
    done = list((here / "outputs").glob("*/*/metrics.json"))
    assert bool(done) != showing
    for path in done:
        rows = json.loads(path.read_text())["metrics"]
        assert rows["rows/total"] > 0
        assert rows["rows/error"] == 0


def _fewer(recipe: str, words: list[str]) -> tuple[str, ...]:
    if any(word.startswith("load.duration_s=") for word in words):
        return (*FEWER[recipe], *FASTER)
    if recipe == "load_demo" and "load=concurrency" not in words:
        return (*FEWER[recipe], "load.rate=40")
    return FEWER.get(recipe, ())


def _with_runs(words: list[str], folder: Path) -> list[str]:
    """Run folders in place of the names that stand for them."""
    if not {"A", "B", "RUN", "RUN_A", "RUN_B"} & set(words):
        return words
    for _ in range(2):
        assert main(["+recipe=demo", "dataset.limit=3", *NULL, "resume=null"]) == 0
    runs = sorted(str(path) for path in (folder / "outputs" / "demo").iterdir())
    names = {"A": runs[0], "B": runs[-1], "RUN": runs[0], "RUN_A": runs[0], "RUN_B": runs[-1]}
    return [names.get(word, word) for word in words]
