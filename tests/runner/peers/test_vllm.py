"""engine=vllm: its process and the protocol with a stand-in for vLLM, and vLLM itself where it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.params import SamplingParams
from runner.config.peers import VllmEngine
from runner.errors import ConfigError
from runner.peers.vllm_llm import VllmLLM
from tests.runner.launch import records, start, succeed
from tests.runner.peers.tiny import configuration, make_model

FAKE = {"PYTHONPATH": str(Path(__file__).with_name("fake_vllm"))}
REAL = os.environ.get("GALLEY_VLLM_PYTHON")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def peer(model: Path, run_dir: Path, **engine: object) -> VllmLLM:
    config = configuration({"kind": "vllm", "environment": FAKE, **engine}, model)
    assert isinstance(config.engine, VllmEngine)
    return VllmLLM(config, config.engine, run_dir)


def test_requests_go_there_as_token_ids_and_come_back_by_our_rules(model: Path, tmp_path: Path) -> None:
    llm = peer(model, tmp_path, max_num_seqs=7, enforce_eager=True, arguments={"swap_space": 1})
    prompts = [[1, 5, 9], [1, 2, 9], [], [1] * 70, [4, 6]]
    params = [SamplingParams(temperature=0.0, max_tokens=5, detokenize=False) for _ in prompts]
    params[4] = SamplingParams(temperature=99.0, detokenize=False)
    found = {int(output.request_id): output for output in llm.stream(prompts, params)}
    assert list(found[0].outputs[0].token_ids) == [9, 5, 1, 9, 5]
    assert found[0].outputs[0].finish_reason == "length"
    assert list(found[1].outputs[0].token_ids) == [9, 2]  # 2 ends a sequence of this model
    assert (found[1].outputs[0].finish_reason, found[1].outputs[0].stop_reason) == ("stop", None)
    assert found[0].num_cached_tokens == 1
    times = found[0].metrics
    assert times is not None
    assert times.scheduled is not None
    assert times.first_token is not None
    assert times.arrival <= times.scheduled <= times.first_token
    assert found[2].error == "the prompt is empty: it must have at least one token"
    assert "max_model_len=64 leaves room for at most 63" in str(found[3].error)
    assert found[4].error == "temperature is too hot for vLLM"
    stats = llm.stats()
    assert (stats.finished_requests, stats.output_tokens, stats.running) == (2, 7, 0)
    assert stats.numerics["engine"] == "vllm 0.0-fake"
    given = json.loads((tmp_path / "arguments.json").read_text())
    assert given["max_num_seqs"] == 7
    assert given["swap_space"] == 1
    assert given["generation_config"] == "vllm"
    assert "block_size" not in given  # left to vLLM
    llm.close()
    assert llm._process.poll() is not None
    assert "standard output, where answers must not be" in (tmp_path / "vllm.log").read_text()


def test_more_requests_than_are_sent_ahead(model: Path, tmp_path: Path) -> None:
    llm = peer(model, tmp_path)
    count = 1500
    params = SamplingParams(temperature=0.0, max_tokens=2, detokenize=False)
    found = list(llm.stream(([3 + n % 100, 7] for n in range(count)), params))
    assert sorted(int(output.request_id) for output in found) == list(range(count))
    assert llm.stats().peak_running <= 512
    llm.close()


def test_without_vllm_the_run_says_so(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine=vllm needs vLLM, and .* does not have it .*engine.python=PATH"):
        peer(model, tmp_path, environment={})
    with pytest.raises(ConfigError, match=r"engine.python='/no/such/python' cannot be started: No such file"):
        peer(model, tmp_path, python="/no/such/python")


def test_refusals_and_deaths_are_told_with_the_log(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vLLM refuses to start: ValueError: an unlucky seed"):
        peer(model, tmp_path, seed=666)
    llm = peer(model, tmp_path)
    with pytest.raises(RuntimeError, match=r"vLLM's process has ended.*vllm\.log"):
        list(llm.stream([[5, 6], [13]], SamplingParams(max_tokens=2, detokenize=False)))
    llm.close()


def test_max_model_len_is_checked_before_anything_starts(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_model_len=4096 is not allowed"):
        peer(model, tmp_path, max_model_len=4096)
    assert not (tmp_path / "vllm.log").exists()


@pytest.mark.skipif(REAL is None, reason="GALLEY_VLLM_PYTHON names no interpreter that has vLLM")
def test_vllm_itself_gives_the_native_engines_outputs(tmp_path: Path) -> None:
    words = ("+recipe=demo", "tracking=none", "dataset.limit=3", "sampling.max_tokens=16", "sampling.stop=['. ', ',']",
             "prompt.user='{{ article[:250] }}'", "measure.roofline=false", "task.keep_token_ids=true")  # fmt: skip
    succeed(tmp_path, *words, "output_root=native")
    own = ("engine=vllm", f"engine.python={REAL}", "engine.enforce_eager=true", "engine.gpu_memory_utilization=0.3")
    process = start(tmp_path, *words, *own, "output_root=peer")
    _, err = process.communicate(timeout=600)  # it starts slowly
    assert process.returncode == 0, err
    folders = [next((tmp_path / name / "demo").iterdir()) for name in ("native", "peer")]
    ours, theirs = (records(folder / "outputs.jsonl") for folder in folders)
    assert [one["prompt_tokens"] for one in ours] == [one["prompt_tokens"] for one in theirs]
    assert ours == theirs
