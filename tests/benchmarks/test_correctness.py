"""The comparison with transformers on the CPU, and that it tells a tie from an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.correctness import Judge, distances, engine_scores, engine_tokens, judge, random_prompts
from benchmarks.gpu_workloads import write_model
from benchmarks.reference import file_tensors, random_tensors
from engine import LLM

SMOLLM = "smollm2-135m-instruct"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(
        "llama8b", tmp_path_factory.mktemp("models"), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=2000,
    )  # fmt: skip


def test_real_weights_in_float32_give_the_tokens_of_transformers() -> None:
    texts = ("The galley was", "A short list of rivers in Europe:", "Once", "2, 4, 8, 16,", "def area(width, height):")
    with LLM(SMOLLM, dtype="float32", max_model_len=256) as llm:
        tokenizer = llm.get_tokenizer()
        chosen = [tokenizer(text)["input_ids"] for text in texts]
        tokens = engine_tokens(llm, chosen, 6)
    config, take = file_tensors(SMOLLM)
    reference = judge(config, take, chosen, 6, CPU)
    verdict = reference.verdict(tokens, limit=1e-3)
    assert (verdict.equal, verdict.beyond) == (5, 0)
    assert 0.01 < reference.rounding < 1


def test_ties_and_errors_are_told_apart() -> None:
    rows = torch.tensor([[5.0, 4.99, 1.0, 0.0], [1.0, 9.0, 2.0, 0.0]])
    reference = Judge([[7], [7]], [[0, 1], [0, 1]], [], [rows, rows], rounding=0.1)
    tie = reference.verdict([[1, 3], [0, 1]])
    assert (tie.equal, tie.beyond) == (1, 0)
    assert tie.partings[0].gap == pytest.approx(0.01, rel=1e-3)
    error = reference.verdict([[1, 3], [0, 2]])
    assert (error.equal, error.beyond) == (0, 1)
    assert [parting.position for parting in error.partings] == [0, 1]


def scores(tiny: Path, change: Any = None) -> dict[str, dict[str, float]]:
    with LLM(str(tiny), load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=256) as llm:
        if change is not None:
            change(llm._open.core.runner.model)  # type: ignore[union-attr]
        scored = engine_scores(llm, random_prompts(4, 60, 2000), 6)
    config = json.loads((tiny / "config.json").read_text())
    return distances(config, random_tensors(CPU), scored, CPU)


def test_distances_are_those_of_bf16(tiny: Path) -> None:
    for values in scores(tiny).values():
        assert 0 < values["engine_mean"] < 1.5 * values["transformers_bf16_mean"] < 0.05


def test_a_wrong_norm_is_seen(tiny: Path) -> None:
    for values in scores(tiny, lambda decoder: decoder.norm.mul_(1.03)).values():
        assert values["engine_mean"] > 1.5 * values["transformers_bf16_mean"]
