"""engine=transformers: the native engine's prompts and, in float32 and greedy, its tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import LLM
from engine.outputs import RequestOutput
from engine.params import SamplingParams
from runner.config.peers import TransformersEngine
from runner.peers.transformers_llm import TransformersLLM
from tests.runner.launch import only_run, records, refused, succeed
from tests.runner.peers.tiny import configuration, make_model

PROMPTS = [[1, 5, 9], [1, 7, 11, 13, 17, 19], [1, 3], [1] * 20, [1, 40, 41, 42], [], [1] * 64, [1, 99, 98]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def peer(model: Path, run_dir: Path, **engine: object) -> TransformersLLM:
    config = configuration({"kind": "transformers", **engine}, model)
    assert isinstance(config.engine, TransformersEngine)
    return TransformersLLM(config, config.engine, run_dir)


def by_number(outputs: list[RequestOutput]) -> list[RequestOutput]:
    return sorted(outputs, key=lambda output: int(output.request_id))


def test_tokens_ends_and_errors_are_those_of_the_native_engine(model: Path, tmp_path: Path) -> None:
    each = [SamplingParams(temperature=0.0, max_tokens=4 + 3 * (i % 4), detokenize=False) for i in range(len(PROMPTS))]
    each[2] = SamplingParams(temperature=0.0, max_tokens=None, detokenize=False)
    each[4] = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, repetition_penalty=1.3, detokenize=False)
    with LLM(str(model), dtype="float32", skip_tokenizer_init=True, max_model_len=64) as llm:
        first = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], each[0], use_tqdm=False)[0].outputs[0]
        each[7] = SamplingParams(temperature=0.0, max_tokens=30, stop_token_ids=[first.token_ids[2]], detokenize=False)
        expected = by_number(list(llm.stream(PROMPTS, each)))
    other = peer(model, tmp_path, max_num_seqs=3)
    found = by_number(list(other.stream(PROMPTS, each)))
    assert [one.error for one in found] == [one.error for one in expected]
    assert sum(one.error is not None for one in found) == 2  # the empty one and the one that is too long
    for ours, theirs in zip(expected, found, strict=True):
        if ours.error is None:
            assert list(theirs.prompt_token_ids) == list(ours.prompt_token_ids)
            assert list(theirs.outputs[0].token_ids) == list(ours.outputs[0].token_ids)
            assert theirs.outputs[0].finish_reason == ours.outputs[0].finish_reason
            assert theirs.outputs[0].stop_reason == ours.outputs[0].stop_reason
    stats = other.stats()
    assert stats.finished_requests == 6
    assert stats.output_tokens == sum(len(one.outputs[0].token_ids) for one in found if one.error is None)
    assert stats.peak_running <= 3
    other.close()


def test_times_follow_one_another(model: Path, tmp_path: Path) -> None:
    other = peer(model, tmp_path)
    params = SamplingParams(temperature=0.7, top_k=20, max_tokens=8, ignore_eos=True, detokenize=False)
    for output in other.stream(PROMPTS[:4], params):
        times = output.metrics
        assert times is not None
        assert times.scheduled is not None
        assert times.first_token is not None
        assert times.last_token is not None
        assert times.arrival <= times.scheduled < times.first_token < times.last_token
        assert len(output.outputs[0].token_ids) == 8


def test_prompts_and_texts_of_the_real_model_with_stop_strings(tmp_path: Path) -> None:
    words = ("+recipe=demo", "tracking=none", "dataset.limit=3", "sampling.max_tokens=24", "sampling.stop=['. ', ',']",
             "prompt.user='{{ article[:250] }}'", "measure.roofline=false", "task.keep_token_ids=true")  # fmt: skip
    succeed(tmp_path, *words, "output_root=native")
    succeed(tmp_path, *words, "output_root=peer", "engine=transformers", "engine.max_num_seqs=2")
    folders = [next((tmp_path / name / "demo").iterdir()) for name in ("native", "peer")]
    ours, theirs = (records(folder / "outputs.jsonl") for folder in folders)
    assert ours == theirs  # text, tokens, finish reasons and prompt lengths
    assert any(record["finish_reason"] == "stop" for record in ours)


def test_prompts_are_equal_to_the_token(tmp_path: Path) -> None:
    chat = [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river — naïve."}]}
    ]
    prompts = [*chat, "A text with  spaces\n\n", {"prompt_token_ids": [1, 2, 3]}]
    params = SamplingParams(temperature=0.0, max_tokens=2)
    with LLM("smollm2-135m-instruct", max_model_len=128) as llm:
        expected = [list(one.prompt_token_ids) for one in by_number(list(llm.stream(prompts, params)))]
    sections = {"task": {"kind": "chat"}, "prompt": {"user": "x"}, "sampling": {"detokenize": True}}
    engine = {"kind": "transformers", "skip_tokenizer_init": False}
    config = configuration(engine, "smollm2-135m-instruct", **sections)
    assert isinstance(config.engine, TransformersEngine)
    other = TransformersLLM(config, config.engine, tmp_path)
    assert [list(one.prompt_token_ids) for one in by_number(list(other.stream(prompts, params)))] == expected


def test_a_whole_run_has_records_times_and_a_report(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"ids": [1, {n}]}}\n' for n in range(3, 15)))
    words = ("name=tiny", "model.name=model", "model.dtype=float32", "dataset=jsonl", "dataset.path=rows.jsonl",
             "prompt.token_ids=ids", "sampling=greedy", "sampling.max_tokens=5", "sampling.detokenize=false",
             "tracking=none", "engine=transformers", "engine.skip_tokenizer_init=true")  # fmt: skip
    succeed(tmp_path, *words, "max_truncated_rate=1.0")
    folder = only_run(tmp_path, "tiny")
    assert len(records(folder / "outputs.jsonl")) == 12
    report = (folder / "report.md").read_text()
    assert "# tiny: VALID" in report
    assert "the engine does not count what its steps compute" in report
    assert "max_model_len" in refused(tmp_path, *words, "engine.max_model_len=4096")
