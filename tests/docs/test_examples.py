"""The scripts of docs/examples run; but for the import they are scripts of vLLM's offline API."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"

# What the script must print: facts that do not depend on a draw.
SHOWS = {
    "basic": ["The capital of France is", "The future of AI is"],
    "chat": ["Generated text: 'Higher education", "With another template: "],
    "batched_chat": ["'How many legs has a spider?' -> 'A spider has 8 legs.' (8 tokens, stop)", "(10 tokens, length)"],
    "async_streams": ["A spider has 8 legs.", "Paris", "The story begins: Once upon a time, "],
    "structured_outputs": ["choice: ", "@", "json: {", "grammar: SELECT col_"],
    "embed": ["Prompt: 'The future of AI is', embedding: [", "(size=384)"],
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SHOWS.keys()


@pytest.mark.parametrize("name", SHOWS)
def test_example(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for text in SHOWS[name]:
        assert text in done.stdout
    # Only the import names Galley: a script of vLLM's differs in nothing else.
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert source.count("engine") == source.count("from engine import")


def test_the_example_of_the_asynchronous_engine(tmp_path: Path) -> None:
    """The first block of Python in its section of docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("## AsyncLLM", 1)[1]
    script = tmp_path / "example.py"
    script.write_text(text.split("```python\n", 1)[1].split("```", 1)[0], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"a", "b"}
    assert "Paris" in done.stdout
    assert sum(line.endswith(("stop", "length")) for line in lines) == 2
